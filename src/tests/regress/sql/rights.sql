-- Nothing is PUBLIC's before the administrator says so.
SELECT shared_lru.create_cache('c', 1048576);
CREATE ROLE regress_app;
CREATE ROLE regress_monitor IN ROLE pg_monitor;

SET ROLE regress_app;
SELECT shared_lru.get('c', 'a');
RESET ROLE;
GRANT USAGE ON SCHEMA shared_lru TO regress_app;
SET ROLE regress_app;
SELECT shared_lru.get('c', 'a');
SELECT count(*) FROM shared_lru.stats;
RESET ROLE;
GRANT EXECUTE ON FUNCTION shared_lru.get(text, bytea), shared_lru.put(text, bytea, bytea) TO regress_app;
SET ROLE regress_app;
SELECT shared_lru.get('c', 'a');
RESET ROLE;
SELECT shared_lru.grant_cache('c', 'regress_app', 'read'), shared_lru.grant_cache('c', 'regress_app', 'write');
SET ROLE regress_app;
SELECT shared_lru.put('c', 'a', 'b') AS is_new;
SELECT shared_lru.get('c', 'a');
SELECT shared_lru.clear('c');
SET ROLE regress_monitor;
SELECT cache, entries FROM shared_lru.stats;
SELECT shared_lru.get('c', 'a');
RESET ROLE;

SELECT shared_lru.drop_cache('c');
DROP OWNED BY regress_app, regress_monitor;
DROP ROLE regress_app, regress_monitor;
DROP EXTENSION pg_shared_lru;
