-- Functions in SQL, views, comments and privileges of pg_shared_lru. Runs at the end of CREATE EXTENSION, after the functions.
--
-- Every name is qualified: by @extschema@ (shared_lru) or pg_catalog, so that no search_path can change what is meant.

-- Text and JSON: the bytea functions, called with the caller's privileges. In the cache text is UTF-8 whatever the
-- database's encoding is, and JSON is its text.

CREATE FUNCTION @extschema@.put_text(cache text, key text, value text) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN @extschema@.put(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'));

CREATE FUNCTION @extschema@.get_text(cache text, key text) RETURNS text
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN pg_catalog.convert_from(@extschema@.get(cache, pg_catalog.convert_to(key, 'UTF8')), 'UTF8');

CREATE FUNCTION @extschema@.remove_text(cache text, key text) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN @extschema@.remove(cache, pg_catalog.convert_to(key, 'UTF8'));

CREATE FUNCTION @extschema@.put_jsonb(cache text, key text, value jsonb) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN @extschema@.put_text(cache, key, value::pg_catalog.text);

CREATE FUNCTION @extschema@.get_jsonb(cache text, key text) RETURNS jsonb
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN @extschema@.get_text(cache, key)::pg_catalog.jsonb;

CREATE VIEW @extschema@.caches AS
SELECT c.cache,
       c.database AS database_oid,
       c.database_name::pg_catalog.name AS database,
       c.owner_name::pg_catalog.name AS owner,
       c.bytes,
       f.policy,
       f.partitions,
       f.buckets,
       f.slab_bytes,
       f.max_entries,
       f.max_entry_bytes,
       f.max_key_bytes
  FROM @extschema@.list_caches() AS c
  LEFT JOIN @extschema@.list_configurations() AS f
         ON f.cache OPERATOR(pg_catalog.=) c.cache AND f.database OPERATOR(pg_catalog.=) c.database;

CREATE VIEW @extschema@.stats AS
SELECT cache,
       entries,
       live_bytes,
       hits,
       misses,
       hits::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(hits OPERATOR(pg_catalog.+) misses, 0) AS hit_ratio,
       inserts,
       updates,
       evictions,
       removals,
       refused,
       compactions,
       slabs_moved,
       entries_moved,
       resets,
       bytes_moved,
       expirations
  FROM @extschema@.list_stats();

CREATE VIEW @extschema@.slab_classes AS
SELECT cache,
       class,
       slot_bytes,
       slabs,
       slots,
       used,
       used::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(slots, 0) AS occupancy,
       stored_bytes,
       internal_waste_bytes
  FROM @extschema@.list_slab_classes();

CREATE VIEW @extschema@.memory AS
SELECT cache,
       region_bytes,
       fixed_bytes,
       directory_bytes,
       data_bytes,
       bucket_bytes,
       free_bytes,
       payload_bytes,
       metadata_bytes,
       (payload_bytes OPERATOR(pg_catalog.+) metadata_bytes)::pg_catalog.float8
           OPERATOR(pg_catalog./) region_bytes AS utilisation,
       payload_bytes::pg_catalog.float8 OPERATOR(pg_catalog./) region_bytes AS payload_ratio,
       slabs_total,
       slabs_free,
       entries::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(bucket_cells, 0) AS bucket_load,
       longest_chain
  FROM @extschema@.list_memory();

COMMENT ON VIEW @extschema@.caches IS 'All caches of the server; configurations of those of the current database';
COMMENT ON VIEW @extschema@.stats IS 'Counters of the caches of the current database, since each was created';
COMMENT ON VIEW @extschema@.slab_classes IS 'Slabs and slots by class; class 0 is the directory of entries';
COMMENT ON VIEW @extschema@.memory IS 'Where the memory of each cache of the current database is';

COMMENT ON FUNCTION @extschema@.create_cache(text, bigint, bigint, integer, text, integer, bigint, integer) IS
    'Creates a cache of so many bytes, or of so many entries (bytes => NULL, max_entries, max_entry_bytes)';
COMMENT ON FUNCTION @extschema@.drop_cache(text) IS 'Drops a cache; false if there was none';
COMMENT ON FUNCTION @extschema@.put(text, bytea, bytea) IS 'Stores a value; true for a new key, false if it replaced one';
COMMENT ON FUNCTION @extschema@.get(text, bytea) IS 'The value of a key; NULL if there is none. Counts as a use';
COMMENT ON FUNCTION @extschema@.contains(text, bytea) IS 'Whether a key is there; does not count as a use';
COMMENT ON FUNCTION @extschema@.remove(text, bytea) IS 'Removes a key; false if there was none';
COMMENT ON FUNCTION @extschema@.clear(text) IS 'Removes all entries and says how many';
COMMENT ON FUNCTION @extschema@.put_text(text, text, text) IS 'As put, with key and value as text';
COMMENT ON FUNCTION @extschema@.get_text(text, text) IS 'As get, with key and value as text';
COMMENT ON FUNCTION @extschema@.remove_text(text, text) IS 'As remove, with the key as text';
COMMENT ON FUNCTION @extschema@.put_jsonb(text, text, jsonb) IS 'As put, with the key as text and the value as JSON';
COMMENT ON FUNCTION @extschema@.get_jsonb(text, text) IS 'As get, with the key as text and the value as JSON';
COMMENT ON FUNCTION @extschema@.get_many(text, bytea[]) IS 'Keys and values of those keys that are there';
COMMENT ON FUNCTION @extschema@.entries(text) IS 'Walks over all entries without holding a lock between them';
COMMENT ON FUNCTION @extschema@.drain(text, bigint) IS
    'Takes entries out in the order of eviction; they are gone even if the statement fails';
COMMENT ON FUNCTION @extschema@.compact(text, bigint) IS 'Moves entries together so that whole slabs become free';
COMMENT ON FUNCTION @extschema@.validate(text) IS 'Checks every structure of a cache; an error says what is wrong';

COMMENT ON FUNCTION @extschema@.list_caches() IS 'For the view caches';
COMMENT ON FUNCTION @extschema@.list_configurations() IS 'For the view caches';
COMMENT ON FUNCTION @extschema@.list_stats() IS 'For the view stats';
COMMENT ON FUNCTION @extschema@.list_slab_classes() IS 'For the view slab_classes';
COMMENT ON FUNCTION @extschema@.list_memory() IS 'For the view memory';

-- Nothing is for PUBLIC. The administrator grants USAGE on the schema and EXECUTE on what a role is to call.
REVOKE ALL ON SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;

-- Monitoring roles see names and numbers, as with PostgreSQL's own statistics; they see no keys and no values.
GRANT USAGE ON SCHEMA @extschema@ TO pg_monitor;
GRANT SELECT ON @extschema@.caches, @extschema@.stats, @extschema@.slab_classes, @extschema@.memory TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.list_caches(), @extschema@.list_configurations(), @extschema@.list_stats(),
    @extschema@.list_slab_classes(), @extschema@.list_memory() TO pg_monitor;
