#!/bin/sh
# Fills a database with what PostgreSQL's own regression tests leave behind.
#
#   sh tests/tools/regression_database.sh FOLDER WORK DATABASE
#
# FOLDER is what regression_sources.sh made, WORK an empty folder that the server's user can read and
# write below. PG* says which server, and its programs are the first in the PATH. The results of the
# tests are not looked at: what counts is what they leave.
set -eu

folder=$1 work=$2 database=$3
major=$(pg_config --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
libdir=$(pg_config --pkglibdir)
mkdir "$work/lib" "$work/results"
cp -R "$folder/regress" "$work/regress"
cc -shared -fPIC -O1 -w -I "$folder/include/$major/server" -I "$folder/include/internal" \
    -I "$folder/include" -I /usr/include/postgresql -o "$work/lib/regress.so" "$work/regress/regress.c"
for module in autoinc refint; do
    ln -s "$libdir/$module.so" "$work/lib/$module.so"
done
chmod -R a+rwX "$work"

# What the tests read, and the session's settings as pg_regress has them.
PG_ABS_SRCDIR=$work/regress PG_ABS_BUILDDIR=$work PG_LIBDIR=$work/lib PG_DLSUFFIX=.so
PGTZ=PST8PDT PGDATESTYLE='Postgres, MDY' PGOPTIONS='-c intervalstyle=postgres_verbose'
export PG_ABS_SRCDIR PG_ABS_BUILDDIR PG_LIBDIR PG_DLSUFFIX PGTZ PGDATESTYLE PGOPTIONS

psql -Xqd postgres <<SQL
CREATE DATABASE "$database" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE "$database" SET lc_messages TO 'C';
ALTER DATABASE "$database" SET bytea_output TO 'hex';
ALTER DATABASE "$database" SET timezone_abbreviations TO 'Default';
SQL
# One after the other. What fails here fails there as well, or needs what only pg_regress has.
sed -n 's/^test://p' "$work/regress/parallel_schedule" | tr ' ' '\n' | sed '/^$/d' |
    while read -r test; do
        psql -Xaqd "$database" -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on \
            -f "$work/regress/sql/$test.sql" >"$work/results/$test.out" 2>&1 || true
    done
