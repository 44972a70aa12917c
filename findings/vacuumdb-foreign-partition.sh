#!/bin/sh
# vacuumdb of PostgreSQL 19, as it is run after a restore, stops at a partition that lies on a server which is away.
#
# Guess:    vacuumdb --analyze-in-stages leaves foreign tables alone, as the older ones do, and what cannot be
#           reached costs statistics of that table at most.
# Seen:     since 19 it analyzes partitioned tables as well (ANALYZE ONLY), to which the server samples all
#           partitions, foreign ones included. Where the server of one of them does not answer, that statement
#           fails, and vacuumdb ends there: it exits with 1, the tables that come after it have no
#           statistics, and the stages that follow are not begun. The same with --analyze-only, and against an
#           older server. vacuumdb 18 against the same server exits with 0, and so does --analyze of 19 (without ONLY of
#           partitioned tables).
# Version:  vacuumdb 19rc1 and 18.4, server 19rc1; also vacuumdb 19rc1 against 15.18.
# Output:   18, --analyze-in-stages: exit code 0, statistics of: other part
#           19, --analyze-in-stages: could not connect to server "away", exit code 1, statistics of: part
#           19, --analyze: exit code 0, statistics of: other part
# Matters:  old partitions are moved to a foreign server to make room, and a restore is tried on a host that cannot
#           reach it. The documented last step of a restore or an upgrade then leaves the database without
#           statistics: it works, and is slow.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres_19

start_server s19 19 "autovacuum = off"

# analyzed MAJOR OPTION: what vacuumdb of that version leaves behind in a database that was just filled.
analyzed() {
    sql s19 postgres -c "drop database if exists app" -c "create database app" 2>/dev/null
    sql s19 app -c "create extension postgres_fdw" \
        -c "create server away foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1', dbname 'x')" \
        -c "create user mapping for public server away options (user 'x')" \
        -c "create table events (id int, at date) partition by range (at)" \
        -c "create table part partition of events for values from ('2026-01-01') to ('2027-01-01')" \
        -c "create foreign table old partition of events for values from ('2020-01-01') to ('2026-01-01') server away" \
        -c "create table other as select generate_series(1, 1000) x" \
        -c "insert into part select g, '2026-03-01' from generate_series(1, 1000) g"
    code=0
    "$postgres/$1/bin/vacuumdb" -h "$work/s19" -U postgres "$2" app >"$work/said" 2>&1 || code=$?
    sed -n 's/.*ERROR:  \(could not connect.*\)/\1/p' "$work/said" | head -n 1
    echo "exit code $code, statistics of: $(sql s19 app -c "select string_agg(distinct starelid::regclass::text, ' ')
        from pg_statistic where starelid in ('part'::regclass, 'other'::regclass)")"
}

# expect MAJOR OPTION OUTPUT
expect() {
    seen=$(analyzed "$1" "$2" | tr '\n' ' ')
    printf 'vacuumdb %s %s: %s\n' "$1" "$2" "$seen"
    [ "$seen" = "$3 " ] || changed "vacuumdb $1 $2 does otherwise: $(cat "$work/said")"
}

expect 18 --analyze-in-stages "exit code 0, statistics of: other part"
expect 19 --analyze-in-stages 'could not connect to server "away" exit code 1, statistics of: part'
expect 19 --analyze-only 'could not connect to server "away" exit code 1, statistics of: part'
expect 19 --analyze "exit code 0, statistics of: other part"
