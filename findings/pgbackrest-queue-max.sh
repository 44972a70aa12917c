#!/bin/sh
# With archive-push-queue-max pgBackRest drops WAL, and PostgreSQL counts it as archived.
#
# Guess:    a segment that archived_count and last_archived_wal of pg_stat_archiver tell of is in an archive.
# Seen:     once more WAL waits than the limit, archive-push throws the segment away and ends with 0, so that
#           the disk of the server does not fill up. PostgreSQL then removes the segment, archived_count grows,
#           and last_archived_time is fresh, though the repository cannot be reached and holds nothing.
# Version:  pgBackRest 2.60.0 (Debian 2.60.0-1), with PostgreSQL 18.4.
# Output:   WARN: dropped WAL file '000000010000000000000001' because archive queue exceeded 16MB
#           archived_count 4, last_archived_wal 000000010000000000000004, less than a minute ago: true
# Matters:  the view is what most checks of an archive read. It says "archived" for WAL that exists nowhere any
#           more; a restore across the gap is impossible. Ask the repository itself which segments it has.
# Source:   own runs; pgBackRest's manual describes the option.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
need_linux_x86_64
fetch_postgres
debian_root "$work/debian" sid pgbackrest=2.60.0-1

folder "$work/pgbackrest"
# The folder of the repository is a file: it cannot be reached.
: >"$work/gone"
cat >"$work/pgbackrest.conf" <<CONF
[global]
repo1-path=$work/gone/repository
log-path=$work/pgbackrest
spool-path=$work/pgbackrest
lock-path=$work/pgbackrest
archive-push-queue-max=16MiB
log-level-console=warn
[main]
pg1-path=$work/s/data
pg1-socket-path=$work/s
CONF
cat >"$work/pgbackrest.sh" <<SCRIPT
#!/bin/sh
exec "$work/debian/usr/lib64/ld-linux-x86-64.so.2" --library-path "$work/debian/usr/lib/x86_64-linux-gnu" \\
    "$work/debian/usr/bin/pgbackrest" --config="$work/pgbackrest.conf" --stanza=main "\$@"
SCRIPT
chmod 755 "$work/pgbackrest.sh"

start_server s 18 "archive_mode = on" "archive_command = '$work/pgbackrest.sh archive-push %p'"
archived() { sql s postgres -c "select archived_count from pg_stat_archiver"; }
three_archived() { [ "$(archived)" -ge 3 ]; }
for n in 1 2 3 4 5; do
    sql s postgres -c "create table t$n (x int)" -c "select pg_switch_wal()" >/dev/null
done
wait_for 120 three_archived || changed "PostgreSQL counts nothing as archived: $(tail -n 5 "$work/s/log")"
sql s postgres -c "select 'archived_count ' || archived_count || ', last_archived_wal ' || last_archived_wal ||
    ', less than a minute ago: ' || (last_archived_time > now() - interval '1 minute') from pg_stat_archiver"
grep -m 1 -o 'WARN: dropped WAL file.*' "$work/s/log" || changed "nothing was dropped"
[ ! -e "$work/gone/repository" ] || broken "there is a repository"
echo "and the repository does not exist"
