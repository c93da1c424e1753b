-- pg_shared_lru 0.2.0: functions, views, comments and privileges.
--
-- Every name is qualified: by @extschema@ (shared_lru) or pg_catalog, so that no search_path can change what is meant.

\echo Use "CREATE EXTENSION pg_shared_lru" to load this file. \quit

CREATE FUNCTION @extschema@.library_version(required text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'library_version_wrapper';

-- A server that has preloaded the library of an older package runs it until it is restarted.
SELECT @extschema@.library_version('0.2.0');

-- Definitions: foreign tables without columns, in a schema of their own. See docs/definitions.md.

CREATE FUNCTION @extschema@.definition_validator(options text[], catalog oid) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'definition_validator_wrapper';

CREATE FOREIGN DATA WRAPPER shared_lru NO HANDLER VALIDATOR @extschema@.definition_validator;
CREATE SERVER shared_lru FOREIGN DATA WRAPPER shared_lru;
CREATE SCHEMA shared_lru_caches;

CREATE FUNCTION @extschema@.create_cache(
    cache text,
    bytes bigint DEFAULT NULL,
    max_entries bigint DEFAULT NULL,
    max_entry_bytes integer DEFAULT NULL,
    policy text DEFAULT NULL,
    partitions integer DEFAULT NULL,
    buckets bigint DEFAULT NULL,
    slab_bytes integer DEFAULT NULL,
    ttl interval DEFAULT NULL,
    persist boolean DEFAULT NULL,
    grace interval DEFAULT NULL,
    accept_clock boolean DEFAULT NULL,
    accept_unchecked boolean DEFAULT NULL,
    settings text[] DEFAULT NULL,
    trusted_functions regprocedure[] DEFAULT NULL,
    if_not_exists boolean DEFAULT false
) RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'define_cache_wrapper';

CREATE FUNCTION @extschema@.alter_cache(
    cache text,
    bytes bigint DEFAULT NULL,
    max_entries bigint DEFAULT NULL,
    max_entry_bytes integer DEFAULT NULL,
    policy text DEFAULT NULL,
    partitions integer DEFAULT NULL,
    buckets bigint DEFAULT NULL,
    slab_bytes integer DEFAULT NULL,
    ttl interval DEFAULT NULL,
    persist boolean DEFAULT NULL,
    grace interval DEFAULT NULL,
    accept_clock boolean DEFAULT NULL,
    accept_unchecked boolean DEFAULT NULL,
    settings text[] DEFAULT NULL,
    trusted_functions regprocedure[] DEFAULT NULL,
    reset text[] DEFAULT NULL
) RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'alter_cache_wrapper';

CREATE FUNCTION @extschema@.rename_cache(cache text, new_name text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'rename_cache_wrapper';

CREATE FUNCTION @extschema@.drop_cache(cache text) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'drop_cache_wrapper';

CREATE FUNCTION @extschema@.grant_cache(cache text, role text, privilege text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'grant_cache_wrapper';

CREATE FUNCTION @extschema@.revoke_cache(cache text, role text, privilege text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'revoke_cache_wrapper';

CREATE FUNCTION @extschema@.save(cache text) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'save_wrapper';

CREATE FUNCTION @extschema@.defragment() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'defragment_wrapper';

CREATE FUNCTION @extschema@.put(cache text, key bytea, value bytea) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'put_wrapper';

-- With a time to live (NULL is the cache's own, zero is for ever), and tags.
CREATE FUNCTION @extschema@.put(cache text, key bytea, value bytea, ttl interval, tags text[] DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'put_with_wrapper';

-- Values of any type.
CREATE FUNCTION @extschema@.put_any(cache text, key bytea, value anyelement, ttl interval DEFAULT NULL, tags text[] DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'put_any_wrapper';

CREATE FUNCTION @extschema@.get_any(cache text, key bytea, of anyelement) RETURNS anyelement
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_any_wrapper';

CREATE FUNCTION @extschema@.get_array(cache text, keys bytea[]) RETURNS bytea[]
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_array_wrapper';

CREATE FUNCTION @extschema@.get_many_text(cache text, keys text[]) RETURNS TABLE (
    key text,
    value text
) LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_many_text_wrapper';

CREATE FUNCTION @extschema@.get_array_text(cache text, keys text[]) RETURNS text[]
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_array_text_wrapper';

-- Versions: what was read, to be replaced only if it is still that.
CREATE FUNCTION @extschema@.get_versioned(cache text, key bytea) RETURNS TABLE (
    value bytea,
    version bytea
) LANGUAGE c VOLATILE STRICT PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'get_versioned_wrapper';

CREATE FUNCTION @extschema@.put_if_version(
    cache text,
    key bytea,
    value bytea,
    version bytea,
    ttl interval DEFAULT NULL,
    tags text[] DEFAULT NULL
) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'put_if_version_wrapper';

-- STABLE, which it is not, so that it is run in the snapshot of the statement that calls it.
CREATE FUNCTION @extschema@.get_text_versioned(cache text, key text) RETURNS TABLE (
    value text,
    version bytea
) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT pg_catalog.convert_from(g.value, 'UTF8'), g.version
      FROM @extschema@.get_versioned(cache, pg_catalog.convert_to(key, 'UTF8')) AS g;
END;

CREATE FUNCTION @extschema@.put_text_if_version(
    cache text,
    key text,
    value text,
    version bytea,
    ttl interval DEFAULT NULL,
    tags text[] DEFAULT NULL
) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
    RETURN @extschema@.put_if_version(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'), version, ttl, tags);

CREATE FUNCTION @extschema@.get(cache text, key bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_wrapper';

CREATE FUNCTION @extschema@.get_many(cache text, keys bytea[]) RETURNS TABLE (
    key bytea,
    value bytea
) LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_many_wrapper';

CREATE FUNCTION @extschema@.contains(cache text, key bytea) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'contains_wrapper';

CREATE FUNCTION @extschema@.remove(cache text, key bytea) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'remove_wrapper';

CREATE FUNCTION @extschema@.clear(cache text) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'clear_wrapper';

CREATE FUNCTION @extschema@.entries(cache text) RETURNS TABLE (
    entry_id bigint,
    key bytea,
    key_bytes integer,
    value_bytes bigint,
    generation bigint,
    version bigint,
    age bigint,
    referenced boolean,
    pinned boolean,
    expires timestamptz
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'entries_wrapper';

CREATE FUNCTION @extschema@.drain(cache text, max_entries bigint DEFAULT NULL) RETURNS TABLE (
    key bytea,
    value bytea
) LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'drain_wrapper';

CREATE FUNCTION @extschema@.compact(cache text, max_bytes bigint DEFAULT NULL) RETURNS TABLE (
    entries_moved bigint,
    bytes_moved bigint,
    slabs_released bigint,
    bytes_gained bigint,
    skipped_pinned bigint
) LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'compact_wrapper';

CREATE FUNCTION @extschema@.validate(cache text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'validate_wrapper';

CREATE FUNCTION @extschema@.list_caches() RETURNS TABLE (
    cache text,
    database oid,
    owner oid,
    bytes bigint,
    database_name text,
    owner_name text,
    relation oid,
    persist boolean,
    saved timestamptz
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_caches_wrapper';

CREATE FUNCTION @extschema@.list_configurations() RETURNS TABLE (
    cache text,
    database oid,
    policy text,
    partitions integer,
    buckets bigint,
    slab_bytes integer,
    max_entries bigint,
    max_entry_bytes bigint,
    max_key_bytes integer
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_configurations_wrapper';

CREATE FUNCTION @extschema@.bytes_by_prefix(cache text, delimiter bytea DEFAULT NULL, length integer DEFAULT NULL) RETURNS TABLE (
    prefix bytea,
    entries bigint,
    bytes bigint
) LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'bytes_by_prefix_wrapper';

CREATE FUNCTION @extschema@.bytes_by_tag(cache text, tags text[]) RETURNS TABLE (
    tag text,
    entries bigint,
    bytes bigint
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'bytes_by_tag_wrapper';

-- A cache on a page: numbers only, as in the views.
CREATE FUNCTION @extschema@.report(cache text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'report_wrapper';

CREATE FUNCTION @extschema@.report_svg(cache text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'report_svg_wrapper';

CREATE FUNCTION @extschema@.report_json(cache text) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'report_json_wrapper';

CREATE FUNCTION @extschema@.reset_stats(cache text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'reset_stats_wrapper';

CREATE FUNCTION @extschema@.list_samples() RETURNS TABLE (
    cache text,
    at timestamptz,
    entries bigint,
    live_bytes bigint,
    hits bigint,
    misses bigint
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_samples_wrapper';

CREATE FUNCTION @extschema@.list_stats() RETURNS TABLE (
    cache text,
    entries bigint,
    live_bytes bigint,
    hits bigint,
    misses bigint,
    inserts bigint,
    updates bigint,
    evictions bigint,
    removals bigint,
    refused bigint,
    compactions bigint,
    slabs_moved bigint,
    entries_moved bigint,
    bytes_moved bigint,
    resets bigint,
    expirations bigint,
    swept bigint,
    invalidations bigint,
    refused_too_large bigint,
    refused_no_room bigint,
    refused_ttl bigint,
    refused_lease bigint,
    refused_present bigint,
    leases bigint,
    lease_waits bigint,
    lease_fills bigint,
    served_stale bigint,
    served_unchecked bigint,
    oldest_age bigint,
    oldest_since timestamptz,
    stats_reset timestamptz,
    resized timestamptz
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_stats_wrapper';

CREATE FUNCTION @extschema@.list_slab_classes() RETURNS TABLE (
    cache text,
    class integer,
    slot_bytes bigint,
    slabs bigint,
    slots bigint,
    used bigint,
    stored_bytes bigint,
    internal_waste_bytes bigint
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_slab_classes_wrapper';

CREATE FUNCTION @extschema@.list_memory() RETURNS TABLE (
    cache text,
    region_bytes bigint,
    fixed_bytes bigint,
    directory_bytes bigint,
    data_bytes bigint,
    bucket_bytes bigint,
    free_bytes bigint,
    payload_bytes bigint,
    metadata_bytes bigint,
    slabs_total bigint,
    slabs_free bigint,
    entries bigint,
    bucket_cells bigint,
    longest_chain bigint
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_memory_wrapper';

-- Text and JSON: the functions for bytea and for values of any type, called with the caller's privileges. In the cache
-- text is UTF-8 whatever the database's encoding is. Each has to be inlined, for else it would run in a snapshot of its own: so one
-- is STRICT only if what it calls is.

CREATE FUNCTION @extschema@.put_text(cache text, key text, value text) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN @extschema@.put(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'));

CREATE FUNCTION @extschema@.put_text(cache text, key text, value text, ttl interval, tags text[] DEFAULT NULL)
    RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
    RETURN @extschema@.put(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'), ttl, tags);

CREATE FUNCTION @extschema@.put_jsonb(cache text, key text, value jsonb, ttl interval, tags text[] DEFAULT NULL)
    RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
    RETURN @extschema@.put_any(cache, pg_catalog.convert_to(key, 'UTF8'), value, ttl, tags);

CREATE FUNCTION @extschema@.get_text(cache text, key text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'get_text_wrapper';

CREATE FUNCTION @extschema@.remove_text(cache text, key text) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN @extschema@.remove(cache, pg_catalog.convert_to(key, 'UTF8'));

CREATE FUNCTION @extschema@.put_jsonb(cache text, key text, value jsonb) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
    RETURN @extschema@.put_any(cache, pg_catalog.convert_to(key, 'UTF8'), value);

CREATE FUNCTION @extschema@.get_jsonb(cache text, key text) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN @extschema@.get_any(cache, pg_catalog.convert_to(key, 'UTF8'), NULL::pg_catalog.jsonb);

-- Leases, and what takes them away. See docs/leases.md.

CREATE FUNCTION @extschema@.get_or_lease(cache text, key bytea, wait interval DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS TABLE (
    value bytea,
    lease bytea
) LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'get_or_lease_wrapper';

CREATE FUNCTION @extschema@.put_leased(cache text, key bytea, value bytea, lease bytea, ttl interval DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'put_leased_wrapper';

CREATE FUNCTION @extschema@.put_if_absent(
    cache text,
    key bytea,
    value bytea,
    ttl interval DEFAULT NULL,
    tags text[] DEFAULT NULL
) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'put_if_absent_wrapper';

CREATE FUNCTION @extschema@.invalidate(cache text, key bytea) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'invalidate_wrapper';

CREATE FUNCTION @extschema@.invalidate_all(cache text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'invalidate_all_wrapper';

CREATE FUNCTION @extschema@.invalidate_prefix(cache text, prefix bytea) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'invalidate_prefix_wrapper';

CREATE FUNCTION @extschema@.invalidate_tag(cache text, tag text) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'invalidate_tag_wrapper';

CREATE FUNCTION @extschema@.invalidate_trigger() RETURNS trigger
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'invalidate_trigger_wrapper';

-- STABLE, which it is not, so that it is run in the snapshot of the statement that calls it, and not in a later one of its
-- own: what that statement reads is what the lease is for.
CREATE FUNCTION @extschema@.get_text_or_lease(cache text, key text, wait interval DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS TABLE (
    value text,
    lease bytea
) LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT pg_catalog.convert_from(g.value, 'UTF8'), g.lease
      FROM @extschema@.get_or_lease(cache, pg_catalog.convert_to(key, 'UTF8'), wait, tags) AS g;
END;

CREATE FUNCTION @extschema@.get_jsonb_or_lease(cache text, key bytea, wait interval DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS TABLE (
    value jsonb,
    lease bytea
) LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'get_jsonb_or_lease_wrapper';

CREATE FUNCTION @extschema@.get_jsonb_or_lease(cache text, key text, wait interval DEFAULT NULL, tags text[] DEFAULT NULL) RETURNS TABLE (
    value jsonb,
    lease bytea
) LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT g.value, g.lease
      FROM @extschema@.get_jsonb_or_lease(cache, pg_catalog.convert_to(key, 'UTF8'), wait, tags) AS g;
END;

CREATE FUNCTION @extschema@.put_any_leased(cache text, key bytea, value anyelement, lease bytea, ttl interval DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'put_any_leased_wrapper';

CREATE FUNCTION @extschema@.put_jsonb_leased(cache text, key text, value jsonb, lease bytea, ttl interval DEFAULT NULL) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN @extschema@.put_any_leased(cache, pg_catalog.convert_to(key, 'UTF8'), value, lease, ttl);

CREATE FUNCTION @extschema@.put_text_leased(cache text, key text, value text, lease bytea, ttl interval DEFAULT NULL) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN @extschema@.put_leased(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'), lease, ttl);

CREATE FUNCTION @extschema@.invalidate_text(cache text, key text) RETURNS void
    LANGUAGE sql VOLATILE STRICT
    RETURN @extschema@.invalidate(cache, pg_catalog.convert_to(key, 'UTF8'));

CREATE FUNCTION @extschema@.contains_text(cache text, key text) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN @extschema@.contains(cache, pg_catalog.convert_to(key, 'UTF8'));

CREATE FUNCTION @extschema@.put_text_if_absent(
    cache text,
    key text,
    value text,
    ttl interval DEFAULT NULL,
    tags text[] DEFAULT NULL
) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
    RETURN @extschema@.put_if_absent(cache, pg_catalog.convert_to(key, 'UTF8'), pg_catalog.convert_to(value, 'UTF8'), ttl, tags);

CREATE FUNCTION @extschema@.invalidate_prefix_text(cache text, prefix text) RETURNS void
    LANGUAGE sql VOLATILE STRICT
    RETURN @extschema@.invalidate_prefix(cache, pg_catalog.convert_to(prefix, 'UTF8'));

-- Results of queries. See docs/query-cache.md.

CREATE FUNCTION @extschema@.fetch(cache text, query text, of anyelement) RETURNS anyelement
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fetch_wrapper';

CREATE FUNCTION @extschema@.fetch(cache text, query text, of anyelement, VARIADIC parameters "any") RETURNS anyelement
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fetch_wrapper';

CREATE FUNCTION @extschema@.query(cache text, query text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'query_wrapper';

CREATE FUNCTION @extschema@.query(cache text, query text, VARIADIC parameters "any") RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'query_wrapper';

-- With a time to live, tags and a grace of this call: NULL is the cache's own.
CREATE FUNCTION @extschema@.fetch_with(cache text, ttl interval, tags text[], grace interval, query text, of anyelement)
    RETURNS anyelement
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fetch_with_wrapper';

CREATE FUNCTION @extschema@.fetch_with(
    cache text, ttl interval, tags text[], grace interval, query text, of anyelement, VARIADIC parameters "any"
) RETURNS anyelement
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'fetch_with_wrapper';

CREATE FUNCTION @extschema@.query_with(cache text, ttl interval, tags text[], grace interval, query text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'query_with_wrapper';

CREATE FUNCTION @extschema@.query_with(
    cache text, ttl interval, tags text[], grace interval, query text, VARIADIC parameters "any"
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'query_with_wrapper';

CREATE FUNCTION @extschema@.explain_query(query text, types regtype[] DEFAULT '{}', cache text DEFAULT NULL) RETURNS TABLE (
    cacheable boolean,
    reason text,
    depends_on text[]
) LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'explain_query_wrapper';

-- Runs as the caller: it creates what the caller may create, and reads nothing.
CREATE FUNCTION @extschema@.cache_view(cache text, source regclass, name text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    source_name text;
    view_name text;
    names text;
    columns text;
BEGIN
    IF cache IS NULL OR source IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'cache and source must not be NULL';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = cache AND relnamespace = 'shared_lru_caches'::regnamespace) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('cache "%s" does not exist in this database', cache),
            HINT = 'Create it with shared_lru.create_cache().';
    END IF;
    SELECT format('%I.%I', n.nspname, c.relname),
           format('%I.%I', n.nspname, coalesce(cache_view.name, c.relname || '_cached'))
      INTO source_name, view_name
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = source;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
           string_agg(concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                                'COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname)), ', ' ORDER BY a.attnum)
      INTO names, columns
      FROM pg_attribute AS a
      LEFT JOIN (pg_collation AS o JOIN pg_namespace AS n ON n.oid = o.collnamespace) ON o.oid = a.attcollation
     WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped;
    IF names IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('%s has no columns', source_name);
    END IF;
    EXECUTE format('CREATE VIEW %s AS SELECT %s FROM @extschema@.query(%L, %L) AS t (%s)',
                   view_name, names, cache, format('SELECT %s FROM %s', names, source_name), columns);
    RETURN view_name;
END $function$;

-- What is in memory, of all databases; and what is defined in this one, but not in memory yet.
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
       f.max_key_bytes,
       true AS in_memory,
       c.persist,
       c.saved
  FROM @extschema@.list_caches() AS c
  LEFT JOIN @extschema@.list_configurations() AS f
         ON f.cache OPERATOR(pg_catalog.=) c.cache AND f.database OPERATOR(pg_catalog.=) c.database
UNION ALL
SELECT t.relname::pg_catalog.text,
       d.oid,
       d.datname,
       pg_catalog.pg_get_userbyid(t.relowner),
       o.bytes,
       o.policy,
       o.partitions,
       o.buckets,
       o.slab_bytes,
       o.max_entries,
       o.max_entry_bytes,
       NULL,
       false,
       coalesce(o.persist, false),
       NULL
  FROM pg_catalog.pg_foreign_table AS f
  JOIN pg_catalog.pg_foreign_server AS s ON s.oid OPERATOR(pg_catalog.=) f.ftserver
  JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) f.ftrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) t.relnamespace
  JOIN pg_catalog.pg_database AS d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
 CROSS JOIN LATERAL (
       SELECT pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'bytes') ::bigint AS bytes,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'policy') AS policy,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'partitions') ::integer AS partitions,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'buckets') ::bigint AS buckets,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'slab_bytes') ::integer AS slab_bytes,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'max_entries') ::bigint AS max_entries,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'max_entry_bytes') ::bigint AS max_entry_bytes,
              pg_catalog.max(option_value) FILTER (WHERE option_name OPERATOR(pg_catalog.=) 'persist') ::boolean AS persist
         FROM pg_catalog.pg_options_to_table(f.ftoptions)) AS o
 WHERE s.srvname OPERATOR(pg_catalog.=) 'shared_lru'
   AND n.nspname OPERATOR(pg_catalog.=) 'shared_lru_caches'
   AND NOT EXISTS (
       SELECT FROM @extschema@.list_caches() AS c
        WHERE c.relation OPERATOR(pg_catalog.=) f.ftrelid AND c.database OPERATOR(pg_catalog.=) d.oid);

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
       expirations,
       swept,
       invalidations,
       refused_too_large,
       refused_no_room,
       refused_ttl,
       refused_lease,
       refused_present,
       leases,
       lease_waits,
       lease_fills,
       served_stale,
       served_unchecked,
       oldest_age,
       oldest_since,
       stats_reset,
       resized
  FROM @extschema@.list_stats();

CREATE VIEW @extschema@.samples AS
SELECT cache,
       at,
       entries,
       live_bytes,
       hits,
       misses,
       hits::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(hits OPERATOR(pg_catalog.+) misses, 0) AS hit_ratio
  FROM @extschema@.list_samples();

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

COMMENT ON VIEW @extschema@.caches IS
    'All caches in memory, and those that this database defines; configurations of those of the current database';
COMMENT ON VIEW @extschema@.stats IS 'Counters of the caches of the current database, since each was created or they were reset';
COMMENT ON VIEW @extschema@.samples IS 'What the background worker has seen of each cache, a minute or so apart: reads since the sample before';
COMMENT ON VIEW @extschema@.slab_classes IS 'Slabs and slots by class; class 0 is the directory of entries';
COMMENT ON VIEW @extschema@.memory IS 'Where the memory of each cache of the current database is';

CREATE FUNCTION @extschema@.list_query_entries() RETURNS TABLE (
    cache text,
    query text,
    role text,
    hits bigint,
    fills bigint,
    made timestamptz,
    result_rows bigint,
    bytes bigint,
    fill_us bigint,
    is_current boolean,
    depends_on text[],
    outdated timestamptz,
    outdated_by text
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_query_entries_wrapper';

CREATE FUNCTION @extschema@.list_query_refusals() RETURNS TABLE (
    cache text,
    reason text,
    count bigint,
    last_object text
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_query_refusals_wrapper';

CREATE VIEW @extschema@.query_entries AS
SELECT cache,
       query,
       role,
       hits,
       fills,
       made,
       pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) made AS age,
       result_rows AS rows,
       bytes,
       fill_us::pg_catalog.float8 OPERATOR(pg_catalog./) 1000 AS fill_ms,
       hits::pg_catalog.float8 OPERATOR(pg_catalog.*) fill_us OPERATOR(pg_catalog./) 1000 AS saved_ms,
       is_current,
       depends_on,
       outdated,
       outdated_by
  FROM @extschema@.list_query_entries();

CREATE VIEW @extschema@.query_refusals AS
SELECT cache,
       reason,
       count,
       last_object
  FROM @extschema@.list_query_refusals();

COMMENT ON VIEW @extschema@.query_entries IS
    'Results of queries that are kept in caches that the current role may read: how often each was served, and what it saves';
COMMENT ON VIEW @extschema@.query_refusals IS 'Why results of queries were not kept, how often, and what was named last';
COMMENT ON FUNCTION @extschema@.list_query_entries() IS 'For the view query_entries';
COMMENT ON FUNCTION @extschema@.list_query_refusals() IS 'For the view query_refusals';

CREATE FUNCTION @extschema@.changes(relation regclass) RETURNS TABLE (
    line integer,
    writes bigint,
    seen bigint,
    definitions bigint,
    code bigint,
    roles bigint
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'changes_wrapper';

COMMENT ON FUNCTION @extschema@.library_version(text) IS
    'Version of the library that this server runs; an error if it is older than what is required';
COMMENT ON FUNCTION @extschema@.create_cache(text, bigint, bigint, integer, text, integer, bigint, integer, interval, boolean, interval, boolean, boolean, text[], regprocedure[], boolean) IS
    'Creates a cache of so many bytes, or of so many entries (max_entries, max_entry_bytes); false if it was there';
COMMENT ON FUNCTION @extschema@.alter_cache(text, bigint, bigint, integer, text, integer, bigint, integer, interval, boolean, interval, boolean, boolean, text[], regprocedure[], text[]) IS
    'Changes what a cache is made of; what is NULL stays, what is in reset goes back to its default';
COMMENT ON FUNCTION @extschema@.rename_cache(text, text) IS 'Gives a cache another name';
COMMENT ON FUNCTION @extschema@.drop_cache(text) IS 'Drops a cache; false if there was none';
COMMENT ON FUNCTION @extschema@.grant_cache(text, text, text) IS 'Lets a role read, write or own a cache';
COMMENT ON FUNCTION @extschema@.revoke_cache(text, text, text) IS 'Takes back what grant_cache gave';
COMMENT ON FUNCTION @extschema@.save(text) IS
    'Writes the contents of a cache that persists to disk, for a clean restart; how many entries';
COMMENT ON FUNCTION @extschema@.defragment() IS 'Moves all caches together, so that free memory is in one piece';
COMMENT ON FUNCTION @extschema@.definition_validator(text[], oid) IS 'Checks the options of caches';
COMMENT ON FUNCTION @extschema@.put(text, bytea, bytea) IS 'Stores a value; true for a new key, false if it replaced one';
COMMENT ON FUNCTION @extschema@.put(text, bytea, bytea, interval, text[]) IS
    'As put, for so long (NULL: as the cache has it, zero: for ever), and with tags; NULL if a tag is being invalidated';
COMMENT ON FUNCTION @extschema@.put_any(text, bytea, anyelement, interval, text[]) IS 'As put, with a value of any type';
COMMENT ON FUNCTION @extschema@.get_any(text, bytea, anyelement) IS
    'The value of a key that was put with put_any; the last argument says of which type, as NULL::type';
COMMENT ON FUNCTION @extschema@.get_array(text, bytea[]) IS 'The values of these keys, in their order; NULL for those without one';
COMMENT ON FUNCTION @extschema@.get_many_text(text, text[]) IS 'As get_many, with keys and values as text';
COMMENT ON FUNCTION @extschema@.get_array_text(text, text[]) IS 'As get_array, with keys and values as text';
COMMENT ON FUNCTION @extschema@.get_versioned(text, bytea) IS 'The value of a key, and its version';
COMMENT ON FUNCTION @extschema@.put_if_version(text, bytea, bytea, bytea, interval, text[]) IS
    'Stores a value if the key still has the one of this version, or none if that is NULL; whether it did, or NULL if a tag is being invalidated';
COMMENT ON FUNCTION @extschema@.invalidate_prefix(text, bytea) IS
    'Removes all keys that begin so and voids all leases when the transaction commits';
COMMENT ON FUNCTION @extschema@.invalidate_tag(text, text) IS
    'Makes values with this tag old for all who see the end of the transaction';
COMMENT ON FUNCTION @extschema@.put_text(text, text, text, interval, text[]) IS 'As put, with key and value as text';
COMMENT ON FUNCTION @extschema@.put_jsonb(text, text, jsonb, interval, text[]) IS 'As put, with the key as text and the value as JSON';
COMMENT ON FUNCTION @extschema@.fetch(text, text, anyelement) IS
    'The one value that a query gives, kept while it is right; the last argument says of which type, as NULL::type';
COMMENT ON FUNCTION @extschema@.fetch(text, text, anyelement, "any") IS 'As fetch, of a query with parameters';
COMMENT ON FUNCTION @extschema@.query(text, text) IS 'The rows that a query gives, kept while they are right';
COMMENT ON FUNCTION @extschema@.query(text, text, "any") IS 'As query, of a query with parameters';
COMMENT ON FUNCTION @extschema@.fetch_with(text, interval, text[], interval, text, anyelement) IS
    'As fetch, with a time to live, tags and a grace of this call; NULL is the cache''s own';
COMMENT ON FUNCTION @extschema@.fetch_with(text, interval, text[], interval, text, anyelement, "any") IS
    'As fetch_with, of a query with parameters';
COMMENT ON FUNCTION @extschema@.query_with(text, interval, text[], interval, text) IS
    'As query, with a time to live, tags and a grace of this call; NULL is the cache''s own';
COMMENT ON FUNCTION @extschema@.query_with(text, interval, text[], interval, text, "any") IS
    'As query_with, of a query with parameters';
COMMENT ON FUNCTION @extschema@.explain_query(text, regtype[], text) IS
    'Whether the result of a query would be kept, if not why, and what it depends on';
COMMENT ON FUNCTION @extschema@.cache_view(text, regclass, text) IS
    'Creates a view with the columns of a table or view, whose rows are kept while they are right; its name';
COMMENT ON FUNCTION @extschema@.get_or_lease(text, bytea, interval, text[]) IS
    'The value of a key; or a lease, the right to store it; or neither, if somebody else has that';
COMMENT ON FUNCTION @extschema@.put_leased(text, bytea, bytea, bytea, interval) IS
    'Stores a value if the lease is not void; whether it did';
COMMENT ON FUNCTION @extschema@.put_if_absent(text, bytea, bytea, interval, text[]) IS
    'Stores a value if the key has none; whether it did, or NULL if a tag is being invalidated';
COMMENT ON FUNCTION @extschema@.invalidate(text, bytea) IS 'Removes a key and voids its leases when the transaction commits';
COMMENT ON FUNCTION @extschema@.invalidate_all(text) IS 'Removes all keys and voids all leases when the transaction commits';
COMMENT ON FUNCTION @extschema@.invalidate_trigger() IS
    'Invalidates the keys of changed rows: arguments are a cache and the columns of its keys';
COMMENT ON FUNCTION @extschema@.get_text_or_lease(text, text, interval, text[]) IS 'As get_or_lease, with key and value as text';
COMMENT ON FUNCTION @extschema@.put_text_leased(text, text, text, bytea, interval) IS 'As put_leased, with key and value as text';
COMMENT ON FUNCTION @extschema@.get_jsonb_or_lease(text, bytea, interval, text[]) IS 'As get_or_lease, with the value as JSON';
COMMENT ON FUNCTION @extschema@.get_jsonb_or_lease(text, text, interval, text[]) IS
    'As get_or_lease, with the key as text and the value as JSON';
COMMENT ON FUNCTION @extschema@.put_any_leased(text, bytea, anyelement, bytea, interval) IS 'As put_leased, with a value of any type';
COMMENT ON FUNCTION @extschema@.put_jsonb_leased(text, text, jsonb, bytea, interval) IS
    'As put_leased, with the key as text and the value as JSON';
COMMENT ON FUNCTION @extschema@.get_text_versioned(text, text) IS 'As get_versioned, with key and value as text';
COMMENT ON FUNCTION @extschema@.put_text_if_version(text, text, text, bytea, interval, text[]) IS 'As put_if_version, with key and value as text';
COMMENT ON FUNCTION @extschema@.invalidate_text(text, text) IS 'As invalidate, with the key as text';
COMMENT ON FUNCTION @extschema@.contains_text(text, text) IS 'As contains, with the key as text';
COMMENT ON FUNCTION @extschema@.put_text_if_absent(text, text, text, interval, text[]) IS 'As put_if_absent, with key and value as text';
COMMENT ON FUNCTION @extschema@.invalidate_prefix_text(text, text) IS 'As invalidate_prefix, with the prefix as text';
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
COMMENT ON FUNCTION @extschema@.list_samples() IS 'For the view samples';
COMMENT ON FUNCTION @extschema@.bytes_by_tag(text, text[]) IS 'Entries and bytes of the values that have these tags';
COMMENT ON FUNCTION @extschema@.bytes_by_prefix(text, bytea, integer) IS
    'Entries and bytes by the beginnings of keys: up to a delimiter, or of a length';
COMMENT ON FUNCTION @extschema@.report(text) IS 'A page about a cache, of at most 80 columns, with plots';
COMMENT ON FUNCTION @extschema@.report_svg(text) IS 'What report shows, as SVG';
COMMENT ON FUNCTION @extschema@.report_json(text) IS 'What report shows, as JSON';
COMMENT ON FUNCTION @extschema@.reset_stats(text) IS 'Has the counters of a cache begin anew, for everybody';
COMMENT ON FUNCTION @extschema@.list_slab_classes() IS 'For the view slab_classes';
COMMENT ON FUNCTION @extschema@.list_memory() IS 'For the view memory';
COMMENT ON FUNCTION @extschema@.changes(regclass) IS
    'How often the query cache was told of changes: of a relation''s rows, of its definition, of functions and types, of roles';

-- Nothing is for PUBLIC. The administrator grants USAGE on the schema and EXECUTE on what a role is to call.
REVOKE ALL ON SCHEMA @extschema@, shared_lru_caches FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;

-- Monitoring roles see names and numbers, as with PostgreSQL's own statistics; they see no keys and no values.
GRANT USAGE ON SCHEMA @extschema@ TO pg_monitor;
GRANT SELECT ON @extschema@.caches, @extschema@.stats, @extschema@.samples, @extschema@.slab_classes, @extschema@.memory TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.list_caches(), @extschema@.list_configurations(), @extschema@.list_stats(),
    @extschema@.list_samples(), @extschema@.list_slab_classes(), @extschema@.list_memory(), @extschema@.changes(regclass)
    TO pg_monitor;
GRANT SELECT ON @extschema@.query_entries, @extschema@.query_refusals TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.list_query_entries(), @extschema@.list_query_refusals() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.report(text), @extschema@.report_svg(text), @extschema@.report_json(text)
    TO pg_monitor;
