-- What pgkeep's role needs in one database: the export of a snapshot, where it was taken from PUBLIC, and
-- before PostgreSQL 14, which has no pg_read_all_data, what it may read.
--
-- Run it with psql, as a superuser, in every database that is to be dumped, after role.sql, and again
-- when a new schema came, or a role made its first table here. From PostgreSQL 14 on it is needed only
-- where somebody took pg_export_snapshot() from PUBLIC, and does no more than to grant that.
--
--   psql -X -d app -f database.sql
--
--   -v role=NAME        another name than pgkeep
--   -v by_schema=yes    also from PostgreSQL 14 on
--
-- `pgkeep doctor` names what the role may not read yet.

\set ON_ERROR_STOP on
\if :{?role} \else \set role pgkeep \endif
\if :{?by_schema} \else \set by_schema no \endif
SET client_min_messages = warning;
SET search_path = pg_catalog;
SELECT current_setting('server_version_num')::int < 140000 OR :'by_schema'::boolean AS needed \gset

SELECT format('GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO %I', :'role')
WHERE NOT has_function_privilege(:'role', 'pg_catalog.pg_export_snapshot()', 'EXECUTE') \gexec

\if :needed
BEGIN;

-- What is there.
SELECT format('GRANT USAGE ON SCHEMA %1$I TO %2$I; GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO %2$I; '
              'GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I', nspname, :'role')
FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY nspname \gexec

-- What comes later, made by those who own something here now. What another role makes is not covered:
-- PostgreSQL keeps default privileges for each role that makes things, and has none for all.
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %1$I GRANT USAGE ON SCHEMAS TO %2$I; '
              'ALTER DEFAULT PRIVILEGES FOR ROLE %1$I GRANT SELECT ON TABLES TO %2$I; '
              'ALTER DEFAULT PRIVILEGES FOR ROLE %1$I GRANT SELECT ON SEQUENCES TO %2$I',
              rolname, :'role')
FROM pg_roles
WHERE rolname <> :'role' AND rolname !~ '^pg_' AND oid IN (
    SELECT datdba FROM pg_database WHERE datname = current_database()
    UNION SELECT nspowner FROM pg_namespace
    UNION SELECT relowner FROM pg_class) ORDER BY rolname \gexec

COMMIT;
\endif
