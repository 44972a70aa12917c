#!/bin/sh
# An archive_command that does not exist is never counted as a failure.
#
# Guess:    each failed try of the archiver raises failed_count in pg_stat_archiver.
# Seen:     a command that ends with 1 is counted. A program that is not there (the shell says 127) and one
#           that a signal ends are not: the archiver dies of FATAL before it reports the failure, is started
#           anew and tries again, for ever. The view shows 0 failures and no last_failed_time.
# Version:  PostgreSQL 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   exit 1: failed_count 1; /nowhere/archive: failed_count 0, segments ready 1,
#           FATAL:  archive command failed with exit code 127
# Matters:  the archive stands still, pg_wal fills the disk, and a check that reads pg_stat_archiver alone
#           says that nothing ever failed. The age of the oldest .ready file tells.
# Source:   own runs; the FATAL line in the server's log.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

failed() { sql "s$major" postgres -c "select failed_count from pg_stat_archiver"; }
is_counted() { [ "$(failed)" -gt 0 ]; }
died() { grep -q 'FATAL:  archive command' "$work/s$major/log"; }

for major in $(postgres_majors 15); do
    start_server "s$major" "$major" "archive_mode = on" "archive_command = 'false'"
    echo "PostgreSQL $(version "$major"):"
    sql "s$major" postgres -c "create table t (x int)" -c "select pg_switch_wal()" >/dev/null
    wait_for 30 is_counted || changed "a command that ends with 1 is not counted"
    echo "    exit 1: failed_count $(failed)"
    for command in /nowhere/archive 'kill $$'; do
        sql "s$major" postgres -c "alter system set archive_command = '$command'" \
            -c "select pg_reload_conf()" >/dev/null
        stop_server "s$major" "$major"
        : >"$work/s$major/log"
        start_server "s$major" "$major"
        sql "s$major" postgres -c "select pg_stat_reset_shared('archiver')" >/dev/null
        wait_for 60 died || changed "the archiver does not die of: $command"
        is_counted && changed "it is counted: $command"
        ready=$(find "$work/s$major/data/pg_wal/archive_status" -name '*.ready' | wc -l)
        message=$(sed -n 's/.*\(FATAL.*\)/\1/p' "$work/s$major/log" | tail -n 1)
        echo "    $command: failed_count $(failed), segments ready $ready, $message"
    done
    stop_server "s$major" "$major"
done
