-- The role that pgkeep connects as, with the rights that it needs and no others. PostgreSQL 11 to 19.
--
-- Run it with psql, as a superuser, in the database that pgkeep uses for what concerns the whole
-- cluster (`database` of [server.NAME], by default postgres). It can be run again at any time.
--
--   psql -X -d postgres -f role.sql
--
-- Before PostgreSQL 14, run database.sql in every database afterwards.
--
--   -v role=NAME           another name than pgkeep
--   -v large_objects=no    leaves out lo_compat_privileges (see below)
--   -v switch_wal=yes      for wal-check with end_to_end: may end a WAL segment
--   -v server_files=yes    for server_files of dumps: may read every file that the server can
--   -v maintain=yes        for vacuum and reindex, PostgreSQL 17 and newer: pg_maintain
--   -v by_schema=yes       as before PostgreSQL 14: no pg_read_all_data, database.sql everywhere
--
-- The role gets no password. On a Unix socket map the user that pgkeep runs as in pg_ident.conf, or
-- let both have the same name; else run \password pgkeep.

\set ON_ERROR_STOP on
\if :{?role} \else \set role pgkeep \endif
\if :{?large_objects} \else \set large_objects yes \endif
\if :{?switch_wal} \else \set switch_wal no \endif
\if :{?server_files} \else \set server_files no \endif
\if :{?maintain} \else \set maintain no \endif
\if :{?by_schema} \else \set by_schema no \endif
-- Memberships that are there already are no news.
SET client_min_messages = warning;
SET search_path = pg_catalog;
SELECT current_setting('server_version_num')::int >= 140000 AND NOT :'by_schema'::boolean AS read_all,
       current_setting('server_version_num')::int >= 170000 AS has_maintain,
       current_setting('server_version_num')::int < 190000 OR :'by_schema'::boolean AS lo_apart,
       -- From 16 on each membership says for itself whether it is inherited.
       CASE WHEN current_setting('server_version_num')::int >= 160000
            THEN 'WITH INHERIT TRUE' ELSE '' END AS inherit \gset

BEGIN;

SELECT format('CREATE ROLE %I LOGIN', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

-- Row-level security: a role that it holds for could not see every row, and pg_dump refuses then. A role
-- that does not inherit has nothing of what is granted below.
ALTER ROLE :"role" LOGIN BYPASSRLS INHERIT;

\if :read_all
-- SELECT on every table, view and sequence, USAGE on every schema, also on those that come later. It
-- reads the system catalogue too: the hashes of the roles' passwords, for the globals; and, which pgkeep
-- has no use for, the passwords in connection strings of subscriptions and in options of user mappings.
GRANT pg_read_all_data TO :"role" :inherit;
\else
-- The hashes of the roles' passwords, for the globals. In this database alone, which is where
-- pg_dumpall looks.
GRANT SELECT ON pg_authid TO :"role";
\endif

\if :lo_apart
\if :large_objects
-- Up to PostgreSQL 18 no role covers large objects, and new ones belong to whoever makes them. With this
-- setting the role may read all of them. It could change them as well: pg_dump does not (its transaction is read-only).
-- Without it, each needs GRANT SELECT ON LARGE OBJECT, again for each new one.
ALTER ROLE :"role" SET lo_compat_privileges = on;
\else
ALTER ROLE :"role" RESET lo_compat_privileges;
\endif
\else
-- From PostgreSQL 19 on pg_read_all_data covers them: what an earlier version needed goes.
ALTER ROLE :"role" RESET lo_compat_privileges;
\endif

-- What goes wrong is told by its class. pg_dump repeats the server's messages without their codes: these
-- are understood in English.
ALTER ROLE :"role" SET lc_messages = 'C';

-- Sizes of databases, progress of others, all settings, and what lies in pg_wal.
GRANT pg_monitor TO :"role" :inherit;

-- Everybody has these three unless they were taken away. The second belongs to this database alone;
-- database.sql grants it in another one.
SELECT format('GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO %I', :'role')
WHERE NOT has_function_privilege(:'role', 'pg_catalog.pg_control_system()', 'EXECUTE') \gexec
SELECT format('GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO %I', :'role')
WHERE NOT has_function_privilege(:'role', 'pg_catalog.pg_export_snapshot()', 'EXECUTE') \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', datname, :'role')
FROM pg_database
WHERE datallowconn AND datname NOT IN ('template0', 'template1') AND NOT has_database_privilege(:'role', oid, 'CONNECT') \gexec

\if :switch_wal
GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO :"role";
\endif

\if :server_files
-- pg_hba.conf and the like beside the globals, wherever they lie.
GRANT pg_read_server_files TO :"role" :inherit;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO :"role";
\endif

\if :maintain
\if :has_maintain
GRANT pg_maintain TO :"role" :inherit;
\else
\echo 'pg_maintain came with PostgreSQL 17: let maintenance_user of [server.NAME] be the owner of the tables, or a superuser'
\endif
\endif

COMMIT;
