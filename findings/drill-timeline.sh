#!/bin/sh
# A test restore that archives takes the next real restore along to its own timeline.
#
# Guess:    a restore to the newest state follows the server that wrote the archive. What somebody tried with a
#           copy last week has no say in it.
# Seen:     a copy keeps the archive_command of its source. Once it is promoted, even for a minute, the
#           archive holds 00000002.history, and recovery_target_timeline is "latest": the highest number wins,
#           not the newest data. The restore leaves timeline 1 where the copy did, and opens without an error
#           and without all that the real server has committed and archived since.
# Version:  PostgreSQL 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   the server has rows {1,2,3,4}, all archived; restored: {1}; with recovery_target_timeline = '1':
#           {1,2,3,4}
# Matters:  a restore drill may cost the data that it was to protect. A drill must turn archive_mode off, and a
#           timeline in the archive that the running server does not have is a finding.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

archived() { [ -e "$work/archive$major/$1" ]; }
is_open() { [ "$(sql "$1" postgres -c 'select pg_is_in_recovery()' 2>/dev/null)" = f ]; }

# restore NAME [SETTING...]: recovers a copy and waits until it is open.
restore() {
    name=$1
    shift
    cp -a "$work/base$major" "$work/$name"
    unprivileged touch "$work/$name/data/recovery.signal"
    start_server "$name" "$major" "restore_command = 'cp $work/archive$major/%f %p'" "$@"
    wait_for 60 is_open "$name" || broken "recovery does not end"
}

for major in $(postgres_majors 15); do
    folder "$work/archive$major"
    start_server "s$major" "$major" "archive_mode = on" \
        "archive_command = 'test ! -e $work/archive$major/%f && cp %p $work/archive$major/%f'"
    sql "s$major" postgres -c "create table t (n int)" -c "insert into t values (1)"
    base_backup "s$major" "$major" "base$major"

    # The drill: the state of the backup, looked at and thrown away.
    restore "drill$major" "recovery_target = 'immediate'" "recovery_target_action = 'promote'"
    wait_for 60 archived 00000002.history || changed "the copy archives no history"
    stop_server "drill$major" "$major"

    for n in 2 3 4; do
        last=$(sql "s$major" postgres -c "insert into t values ($n)" \
            -c "select pg_walfile_name(pg_switch_wal() - 1)")
    done
    wait_for 60 archived "$last" || broken "nothing was archived"
    rows=$(sql "s$major" postgres -c "select array_agg(n order by n) from t")
    echo "PostgreSQL $(version "$major"): the server has rows $rows, all archived"
    stop_server "s$major" "$major"

    restore "real$major" "archive_mode = off"
    rows=$(sql "real$major" postgres -c "select array_agg(n order by n) from t")
    echo "    restored after a drill: rows $rows"
    [ "$rows" = "{1}" ] || changed "the restore follows the server: $rows"
    stop_server "real$major" "$major"

    restore "told$major" "archive_mode = off" "recovery_target_timeline = '1'"
    rows=$(sql "told$major" postgres -c "select array_agg(n order by n) from t")
    echo "    restored with recovery_target_timeline = '1': rows $rows"
    [ "$rows" = "{1,2,3,4}" ] || changed "timeline 1 is not complete: $rows"
    stop_server "told$major" "$major"
done
