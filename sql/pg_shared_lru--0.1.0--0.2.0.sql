-- pg_shared_lru: from 0.1.0 to 0.2.0.

\echo Use "ALTER EXTENSION pg_shared_lru UPDATE" to load this file. \quit

CREATE FUNCTION @extschema@.library_version(required text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'library_version_wrapper';

-- A server that has preloaded the library of an older package runs it until it is restarted.
SELECT @extschema@.library_version('0.2.0');

COMMENT ON FUNCTION @extschema@.library_version(text) IS
    'Version of the library that this server runs; an error if it is older than what is required';

REVOKE ALL ON FUNCTION @extschema@.library_version(text) FROM PUBLIC;
