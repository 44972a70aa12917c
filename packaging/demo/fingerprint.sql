-- One line for each table, materialized view, sequence and large object of a database: its name,
-- how much it holds and a hash of the contents that does not depend on the order of the rows.
-- Two databases with the same lines hold the same data. Run with psql -XqAt.
--
-- The hashes are 64-bit sums with two seeds: they find accidents, not forgers, and need no
-- sorting and no memory, whatever the size of the table.

SET search_path = pg_catalog;
SET row_security = off;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET statement_timeout = 0;

SELECT format('database %s %s %s', pg_encoding_to_char(encoding), datcollate, datctype)
FROM pg_database WHERE datname = current_database();

-- The alias is one that no column has: a column of that name would be hashed instead of the row.
SELECT format('SELECT %L, count(*), sum(hashtextextended("the whole row"::text COLLATE "C", 1)::numeric),'
              ' sum(hashtextextended("the whole row"::text COLLATE "C", 2)::numeric)'
              ' FROM ONLY %I.%I AS "the whole row"',
              'table ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname), n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated)
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY n.nspname, c.relname
\gexec

SELECT format('SELECT %L, last_value, is_called FROM %I.%I',
              'sequence ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname), n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY n.nspname, c.relname
\gexec

SELECT 'large object ' || oid, pg_get_userbyid(lomowner), lomacl, length(lo_get(oid)),
       encode(sha256(lo_get(oid)), 'hex')
FROM pg_largeobject_metadata ORDER BY oid;
