#!/bin/sh
# `pg_dump --lock-wait-timeout` does not limit the wait for a materialized view that is refreshed.
#
# Guess:    with --lock-wait-timeout=500 pg_dump waits for no lock longer than half a second.
# Seen:     the option covers the statements that lock the tables. The definition of a materialized view is
#           read later, by pg_get_viewdef, and that waits for the ACCESS EXCLUSIVE lock of a REFRESH without a
#           limit: pg_dump has set lock_timeout and statement_timeout to 0 by then, and PGOPTIONS cannot help.
# Version:  pg_dump and server 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   waits after 3 s: SELECT pg_catalog.pg_get_viewdef(...) AS viewdef, statement_timeout 0
#           a locked table: canceling statement due to statement timeout
# Matters:  a nightly dump that meets a refresh of hours waits for hours, holds its snapshot and its locks, and
#           the limit that was to prevent this is silent. Whoever runs pg_dump must watch its session.
# Source:   own runs; pg_stat_activity shows the statement.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

# hold STATEMENT: keeps the locks of the statement until `let_go`.
hold() {
    printf 'begin;\n%s;\nselect pg_sleep(60);\n' "$1" | sql "s$major" postgres >/dev/null 2>&1 &
    helpers="$helpers $!"
    wait_for 20 sleeping || broken "the statement was not run: $1"
}
sleeping() {
    [ "$(sql "s$major" postgres -c "select count(*) from pg_stat_activity where query like 'select pg_sleep%'")" -gt 0 ]
}
let_go() {
    sql "s$major" postgres -c "select pg_terminate_backend(pid) from pg_stat_activity
        where query like 'select pg_sleep%'" >/dev/null
}
dump() {
    PGOPTIONS='-c lock_timeout=500 -c statement_timeout=500' "$postgres/$major/bin/pg_dump" \
        -h "$work/s$major" -U postgres --lock-wait-timeout=500 -f /dev/null postgres
}

for major in $(postgres_majors 15); do
    start_server "s$major" "$major"
    sql "s$major" postgres -c "create table t (x int)" -c "create materialized view m as select count(*) from t"
    echo "pg_dump $(version "$major") with --lock-wait-timeout=500:"

    hold "lock table t in access exclusive mode"
    if dump 2>"$work/message"; then changed "pg_dump got past a locked table"; fi
    let_go
    grep -q 'due to statement timeout' "$work/message" || changed "another message: $(cat "$work/message")"
    echo "    a locked table: $(sed -n '1s/.*ERROR:  //p' "$work/message")"

    hold "refresh materialized view m"
    dump 2>"$work/message" &
    helper=$!
    helpers="$helpers $helper"
    # Six times the limit.
    sleep 3
    waits=$(sql "s$major" postgres -c "select left(query, 40) from pg_stat_activity
        where application_name = 'pg_dump' and wait_event_type = 'Lock'")
    case $waits in
    *pg_get_viewdef*) echo "    a view that is refreshed: it waits after 3 s: $waits..." ;;
    *) changed "pg_dump does not wait for the view: $waits $(cat "$work/message")" ;;
    esac
    let_go
    wait "$helper" || changed "pg_dump fails when the lock is gone"
    echo "    and goes on once the refresh is over"
    stop_server "s$major" "$major"
done
