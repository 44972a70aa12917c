-- Roles of the sample data: what belongs to the whole cluster. Shared by the demo and the tests.
-- The passwords are public and open nothing but a throwaway cluster.

CREATE ROLE shop_owner LOGIN PASSWORD 'shop owner''s password';
CREATE ROLE reporting NOLOGIN;
COMMENT ON ROLE reporting IS 'Reads everything, owns nothing';
GRANT pg_read_all_data TO reporting;
-- May read every table and yet not every row: row security holds for it.
CREATE ROLE limited LOGIN PASSWORD 'limited' IN ROLE reporting;
ALTER ROLE limited SET statement_timeout = '1h';
CREATE ROLE "Ops & ""Support""" NOLOGIN IN ROLE reporting;
