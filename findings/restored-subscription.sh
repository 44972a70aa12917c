#!/bin/sh
# To clean up a restored copy of a subscriber drops the replication slot of the real one.
#
# Guess:    a restored database is a copy: whatever is dropped in it leaves the servers around it alone.
# Seen:     pg_dump writes each subscription with connect = false and with the slot's name. It comes back
#           disabled, and nothing happens until the copy is to go: DROP DATABASE refuses, because of the
#           subscription. DROP SUBSCRIPTION, which that asks for, connects to the real publisher and drops the
#           slot there. (While the real subscriber is connected, that waits until it is not.) Safe is: ALTER
#           SUBSCRIPTION ... SET (slot_name = none) first.
# Version:  PostgreSQL 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   DROP DATABASE: is being used by logical replication subscription
#           DROP SUBSCRIPTION: NOTICE:  dropped replication slot "feed" on publisher; slots left: 0
# Matters:  a restore drill that tidies up behind itself breaks production's replication: the real subscriber
#           must be copied anew. Restores for a test leave subscriptions out (pg_restore --no-subscriptions).
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

slots() { sql "s$major" postgres -c "select count(*) from pg_replication_slots"; }

for major in $(postgres_majors 15); do
    # One server plays all parts; the databases are what counts.
    start_server "s$major" "$major" "wal_level = logical"
    sql "s$major" postgres -c "create database publisher" -c "create database subscriber" -c "create database copy"
    sql "s$major" publisher -c "create table t (x int)" -c "create publication p for table t" \
        -c "select pg_create_logical_replication_slot('feed', 'pgoutput')" >/dev/null
    # Disabled: the subscriber is down for its own reasons.
    sql "s$major" subscriber -c "create table t (x int)" -c "create subscription s
        connection 'host=$work/s$major user=postgres dbname=publisher' publication p
        with (create_slot = false, slot_name = 'feed', enabled = false)"

    "$postgres/$major/bin/pg_dump" -h "$work/s$major" -U postgres -Fc -f "$work/dump$major" subscriber
    "$postgres/$major/bin/pg_restore" -h "$work/s$major" -U postgres -d copy "$work/dump$major"
    echo "PostgreSQL $(version "$major"): slots at the publisher: $(slots)"
    [ "$(slots)" -eq 1 ] || changed "the restore touched the slot"
    echo "    restored: $(sql "s$major" copy -c "select subname, 'enabled: ' || subenabled, 'slot: ' || subslotname
        from pg_subscription s join pg_database d on d.oid = s.subdbid where datname = 'copy'")"

    if sql "s$major" postgres -c "drop database copy" 2>"$work/message"; then
        changed "DROP DATABASE does not mind the subscription"
    fi
    echo "    DROP DATABASE: $(head -n 1 "$work/message")"
    sql "s$major" copy -c "drop subscription s" 2>"$work/message" ||
        changed "DROP SUBSCRIPTION fails: $(cat "$work/message")"
    echo "    DROP SUBSCRIPTION in the copy: $(cat "$work/message"); slots left: $(slots)"
    [ "$(slots)" -eq 0 ] || changed "the slot is still there"
    stop_server "s$major" "$major"
done
