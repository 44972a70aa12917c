#!/bin/sh
# A lost slot goes on showing a catalog_xmin that holds nothing back any more.
#
# Guess:    the horizon of VACUUM is the oldest of all xmin and catalog_xmin in pg_replication_slots. An old
#           value there keeps dead rows.
# Seen:     a logical slot that max_slot_wal_keep_size has made "lost" keeps its last catalog_xmin in the view, for
#           ever. VACUUM passes it: rows of the catalogue that died later are removed, and the cutoff which
#           VACUUM VERBOSE reports is newer. A slot that is not lost, with the same value, keeps them.
# Version:  PostgreSQL 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   18.4: reserved: catalog_xmin 753, cutoff 753; lost: catalog_xmin 753, cutoff 764
# Matters:  an alert on the age of the horizon goes off for a slot that does no harm, and points away from
#           what does. Leave lost slots out; that they are lost is an alarm of its own.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

# cutoff: the first transaction whose dead rows VACUUM keeps in the catalogue.
cutoff() {
    "$psql" -X -q -h "$work/s$major" -U postgres -d postgres -c "create table gone (x int)" -c "drop table gone" \
        -c "vacuum (verbose) pg_catalog.pg_class" 2>&1 | sed -n 's/.*removable cutoff: \([0-9]*\),.*/\1/p' | head -n 1
}
shown() { sql "s$major" postgres -c "select $1 from pg_replication_slots"; }
lost() { [ "$(shown wal_status)" = lost ]; }

for major in $(postgres_majors 15); do
    start_server "s$major" "$major" "wal_level = logical" "max_slot_wal_keep_size = 1MB" "max_wal_size = 32MB" \
        "min_wal_size = 32MB" "autovacuum = off"
    sql "s$major" postgres -c "create table t (x int)" \
        -c "select pg_create_logical_replication_slot('feed', 'pgoutput')" >/dev/null
    sql "s$major" postgres -c "create table u (x int)"
    xmin=$(shown catalog_xmin)
    before=$(cutoff)
    echo "PostgreSQL $(version "$major"): $(shown wal_status): catalog_xmin $xmin, cutoff $before"
    [ "$before" -le "$xmin" ] || changed "a slot that is not lost holds nothing back"

    for n in 1 2 3 4 5 6; do
        sql "s$major" postgres -c "insert into t values ($n)" -c "select pg_switch_wal()" >/dev/null
    done
    sql "s$major" postgres -c checkpoint
    wait_for 30 lost || broken "the slot is not lost: $(shown wal_status)"
    after=$(cutoff)
    echo "    $(shown wal_status): catalog_xmin $(shown catalog_xmin), cutoff $after"
    [ "$(shown catalog_xmin)" = "$xmin" ] || changed "a lost slot shows another catalog_xmin"
    [ "$after" -gt "$xmin" ] || changed "a lost slot still holds rows back"
    stop_server "s$major" "$major"
done
