-- A cache from its creation to its end.
CREATE EXTENSION pg_shared_lru;
SELECT shared_lru.create_cache('products', 1048576, policy => 'lru', partitions => 1);
SELECT cache, database = current_database() AS here, bytes, policy, partitions FROM shared_lru.caches;

SELECT shared_lru.put('products', 'a', '\x0102') AS is_new;
SELECT shared_lru.put('products', 'a', '\x010203') AS is_new;
SELECT shared_lru.put_text('products', 'b', 'grün') AS is_new;
SELECT shared_lru.put_jsonb('products', 'c', '{"price": [3, 5]}') AS is_new;
SELECT shared_lru.get('products', 'a'), shared_lru.get_text('products', 'b'),
       shared_lru.get_jsonb('products', 'c') -> 'price' ->> 1 AS price, shared_lru.get('products', 'd') AS absent;
SELECT * FROM shared_lru.get_many('products', ARRAY['d', 'a']::bytea[]);
SELECT shared_lru.contains('products', 'b'), shared_lru.contains('products', 'd');

SELECT entries, live_bytes, hits, misses, inserts, updates, evictions FROM shared_lru.stats;
SELECT key, value_bytes, version FROM shared_lru.entries('products') ORDER BY key;
SELECT shared_lru.validate('products');

SELECT shared_lru.remove('products', 'a'), shared_lru.remove('products', 'a') AS again;
SELECT * FROM shared_lru.drain('products', 1);
SELECT shared_lru.clear('products');
SELECT entries, removals FROM shared_lru.stats;

-- It is no part of a transaction.
BEGIN;
SELECT shared_lru.put_text('products', 'x', 'y') AS is_new;
ROLLBACK;
SELECT shared_lru.get_text('products', 'x');

SELECT shared_lru.drop_cache('products');
SELECT shared_lru.drop_cache('products') AS again;
SELECT count(*) FROM shared_lru.caches;
