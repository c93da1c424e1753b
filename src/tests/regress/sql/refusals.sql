-- What is refused, and what is said then.
SELECT shared_lru.get('nothing', 'a');
SELECT shared_lru.create_cache('', 1048576);
SELECT shared_lru.create_cache(NULL, 1048576);
SELECT shared_lru.create_cache('small', 1000);
SELECT shared_lru.create_cache('odd', 1048576, policy => 'mru');
SELECT shared_lru.create_cache('odd', 1048576, partitions => 3);
SELECT shared_lru.create_cache('c', 1048576);
SELECT shared_lru.create_cache('c', 1048576);
SELECT shared_lru.put('c', '\x', '\x') AS is_new;
SELECT shared_lru.put('c', NULL, '\x') IS NULL AS is_null;
SELECT shared_lru.put('c', convert_to(repeat('k', 70000), 'UTF8'), '\x');
SELECT shared_lru.drop_cache('c');
