#!/bin/sh
# A restore_command that fails for a moment ends the recovery, and the server opens with what it has.
#
# Guess:    where the archive cannot be reached, recovery waits, or stops with an error: the segment is there.
# Seen:     exit 1 means "no such file" and nothing else. Recovery takes the segment before for the end of the
#           archive, promotes to a new timeline and accepts connections, without an error and without the rows
#           of the segments that follow. An exit above 125 (200 here) does stop it; so does a recovery target
#           that was not reached, and a restore to the newest state has none.
# Version:  PostgreSQL 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   exit 1 for one segment: opens with rows {1,2}, archive holds 4; exit 200: no server
# Matters:  a time-out of an S3 server in the middle of a restore costs the newest data, and all looks well. A
#           restore_command must tell "not there" from "could not ask", and end above 125 for the second.
# Source:   own runs; the manual's chapter on recovery from an archive says which exits stop it.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

archived() { [ -e "$work/archive$major/$last" ]; }

# restore NAME EXIT: recovers the copy; the archive does not give the segment with the third row.
restore() {
    cp -a "$work/base$major" "$work/$1"
    unprivileged touch "$work/$1/data/recovery.signal"
    fetch="case %f in $third) exit $2 ;; esac; cp $work/archive$major/%f %p"
    printf "archive_mode = off\nrestore_command = '%s'\n" "$fetch" |
        unprivileged tee -a "$work/$1/data/postgresql.conf" >/dev/null
    unprivileged "$postgres/$major/bin/pg_ctl" -D "$work/$1/data" -w -t 30 -l "$work/$1/log" \
        -o "-k $work/$1" start >/dev/null 2>&1
}
is_open() { [ "$(sql "$1" postgres -c 'select pg_is_in_recovery()' 2>/dev/null)" = f ]; }

for major in $(postgres_majors 15); do
    folder "$work/archive$major"
    start_server "s$major" "$major" "archive_mode = on" \
        "archive_command = 'test ! -e $work/archive$major/%f && cp %p $work/archive$major/%f'"
    sql "s$major" postgres -c "create table t (n int)" -c "insert into t values (1)"
    base_backup "s$major" "$major" "base$major"
    for n in 2 3 4; do
        last=$(sql "s$major" postgres -c "insert into t values ($n)" \
            -c "select pg_walfile_name(pg_switch_wal() - 1)")
        [ "$n" -ne 3 ] || third=$last
    done
    wait_for 60 archived || broken "nothing was archived"
    stop_server "s$major" "$major"
    echo "PostgreSQL $(version "$major"): rows 1 to 4, the last three in segments of the archive"

    restore "one$major" 1 || changed "with exit 1 the server does not start"
    wait_for 30 is_open "one$major" || changed "with exit 1 recovery does not end"
    rows=$(sql "one$major" postgres -c "select array_agg(n order by n) from t")
    echo "    exit 1 for the segment of row 3: the server is open, rows $rows"
    [ "$rows" = "{1,2}" ] || changed "other rows: $rows"
    stop_server "one$major" "$major"

    if restore "high$major" 200 && wait_for 5 is_open "high$major"; then
        changed "exit 200 does not stop it"
    fi
    echo "    exit 200 for it: $(sed -n 's/.*\(FATAL.*\)/\1/p' "$work/high$major/log" | head -n 1)"
done
