-- Sample data of a database with a hostile name: a small archive of letters whose tables and
-- columns have names that need care as well. Shared by the demo and the tests.

SET client_min_messages = warning;

CREATE TABLE public."Letters & ""Parcels""" (
    "order"    integer PRIMARY KEY,
    "from/to"  text NOT NULL,
    "né le"    date,
    body       text
);
INSERT INTO public."Letters & ""Parcels"""
SELECT i, (ARRAY['../etc/passwd','$(reboot)','%s%n','`id`',E'new\nline','a''b"c','🐘→🐘'])[1 + i % 7],
       date '1900-01-01' + i * 29,
       repeat(md5('letter ' || i) || E'\n', 1 + i % 20)
FROM generate_series(1, 1500) AS i;

CREATE TABLE public."select" ("from" integer, "where" text DEFAULT E'\\.');
INSERT INTO public."select" SELECT i, CASE WHEN i % 2 = 0 THEN E'\\.' END FROM generate_series(1, 40) AS i;

CREATE SCHEMA "../..";
CREATE TABLE "../.."."a
b" (id integer GENERATED ALWAYS AS IDENTITY, "x'y" text[]);
INSERT INTO "../.."."a
b" ("x'y") SELECT ARRAY[NULL, '', 'NULL', '{' || i || '}'] FROM generate_series(1, 60) AS i;

CREATE TABLE public."no columns" ();
INSERT INTO public."no columns" DEFAULT VALUES;
INSERT INTO public."no columns" DEFAULT VALUES;

CREATE SEQUENCE public."Zähler; DROP TABLE x" AS smallint MINVALUE -5 START -5 CYCLE;
SELECT nextval('public."Zähler; DROP TABLE x"') \g /dev/null
SELECT lo_from_bytea(0, convert_to('a letter as a large object', 'UTF8')) \g /dev/null

-- 63 bytes: the longest name there is.
CREATE TABLE public.a_name_of_sixty_three_bytes_which_is_the_longest_there_can_be_x (v text);
INSERT INTO public.a_name_of_sixty_three_bytes_which_is_the_longest_there_can_be_x VALUES ('x'), (NULL), ('');
