#!/bin/sh
# REPACK (CONCURRENTLY) of PostgreSQL 19 empties the table for a snapshot that is older.
#
# Guess:    the form that lets others read and write is the gentler one: an open transaction goes on seeing its rows.
# Seen:     a transaction in REPEATABLE READ that has its snapshot, and has not touched the table yet, reads 0
#           rows after REPACK (CONCURRENTLY), and 20000 after plain REPACK or VACUUM FULL. No error, no warning.
# Version:  PostgreSQL 19rc1 (Debian 19~rc1-1).
# Output:   REPACK: 20000, VACUUM FULL: 20000, REPACK (CONCURRENTLY): 0; a new snapshot: 20000 each time
# Matters:  pg_dump locks its tables after it has its snapshot. With a snapshot that was exported earlier
#           (pg_dump --snapshot, for several dumps of one state) a repack in between makes an empty table in a
#           dump that ends with 0.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres_19
major=19

idle() {
    [ "$(sql s postgres -c "select count(*) from pg_stat_activity where state = 'idle in transaction'
        and application_name = 'holder'")" -eq 1 ]
}

start_server s 19
sql s postgres -c "create table t (x int primary key)" -c "insert into t select generate_series(1, 20000)"
mkfifo "$work/commands"
echo "PostgreSQL $(version $major), rows that a pg_dump --snapshot finds in a table of 20000:"
for way in "repack t" "vacuum full t" "repack (concurrently) t"; do
    # A session that exports its snapshot and keeps it.
    PGAPPNAME=holder sql s postgres -c "begin isolation level repeatable read" \
        -c "select pg_export_snapshot()" -f "$work/commands" >"$work/snapshot" &
    holder=$!
    helpers="$helpers $holder"
    # Opened to be read as well: where nobody reads it does not wait.
    exec 3<>"$work/commands"
    wait_for 20 idle || broken "no session holds a snapshot"
    sql s postgres -c "$way"
    "$postgres/19/bin/pg_dump" -h "$work/s" -U postgres --data-only --snapshot="$(head -n 1 "$work/snapshot")" \
        -f "$work/dump.sql" postgres 2>"$work/message" || changed "pg_dump fails: $(cat "$work/message")"
    exec 3>&-
    wait "$holder"
    rows=$(grep -c '^[0-9][0-9]*$' "$work/dump.sql") || true
    now=$(sql s postgres -c "select count(*) from t")
    echo "    $way: $rows; a new snapshot: $now; pg_dump ends with 0, bytes on standard error $(wc -c <"$work/message")"
    [ "$now" -eq 20000 ] || broken "the table has other rows"
    case $way in
    *concurrently*) [ "$rows" -eq 0 ] || changed "the older snapshot sees $rows rows" ;;
    *) [ "$rows" -eq 20000 ] || changed "$way loses rows for an older snapshot" ;;
    esac
done
