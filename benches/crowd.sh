#!/bin/sh
# Measures the memory of a daily run (a dump, a prune, the daemon's own look) over a repository of
# 100,000 backups in S3, as a ratio against another build of pgkeep in the same run.
#
#   sh benches/crowd.sh OTHER_PGKEEP PGKEEP [--backups N] [--series N] [--rounds N]
#
# Both must be built with the same profile. Each gets a daemon of its own over a crowd of its own (one real
# backup, and names and manifests made after it); what is printed is the daemon's peak (VmHWM) after all
# three are done, and how much of its memory then is pages of files, which is the program itself. `--backups 50` shows
# what a daemon takes that has next to nothing to look at. Needs PostgreSQL's server and client, python3 and curl; installs
# nothing.
set -eu
other=$(realpath "${1:?another pgkeep}") ours=$(realpath "${2:?a pgkeep}")
shift 2
backups=100000 series=50 rounds=1
while [ $# -gt 0 ]; do
    case $1 in
        --backups) backups=$2; shift 2 ;;
        --series) series=$2; shift 2 ;;
        --rounds) rounds=$2; shift 2 ;;
        *) echo "usage: sh benches/crowd.sh OTHER_PGKEEP PGKEEP [--backups N] [--series N] [--rounds N]" >&2; exit 2 ;;
    esac
done
cd "$(dirname "$0")/.."
bin=$(find /usr/lib/postgresql /usr/pgsql-* -name initdb -printf '%h\n' 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || { echo "bench: no PostgreSQL server is installed" >&2; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-crowd.XXXXXX")
chmod 755 "$dir"
user=$(id -un)
as_pg() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    user=nobody
    as_pg() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
fi
daemon_pid='' s3_pid=''
finish() {
    [ -z "$daemon_pid" ] || kill "$daemon_pid" 2>/dev/null || true
    [ -z "$s3_pid" ] || kill "$s3_pid" 2>/dev/null || true
    as_pg "$bin/pg_ctl" -D "$dir/pg/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

mkdir -p "$dir/pg" && chown "$user" "$dir/pg"
as_pg "$bin/initdb" -D "$dir/pg/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust --no-sync >/dev/null
printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\n" "$dir/pg" >>"$dir/pg/data/postgresql.conf"
as_pg "$bin/pg_ctl" -D "$dir/pg/data" -w -l "$dir/pg/log" start >/dev/null
export PGHOST="$dir/pg" PGUSER=postgres
createdb app
psql -q -d app -c 'create table t as select i, md5(i::text) from generate_series(1, 20000) i'

# measure PGKEEP NAME: prints the peak in KiB.
measure() {
    here="$dir/$2"
    mkdir -p "$here/state" "$here/run"
    chmod 700 "$here/state"
    python3 benches/crowd_s3.py "$here/port" "$backups" "$series" 2>"$here/s3.log" &
    s3_pid=$!
    until [ -s "$here/port" ]; do kill -0 "$s3_pid"; sleep 0.1; done
    url=http://127.0.0.1:$(cat "$here/port")
    cat >"$here/pgkeep.toml" <<CONF
[daemon]
state_dir = "$here/state"
runtime_dir = "$here/run"
listen = "off"
log_level = "warn"
[server.main]
host = "$dir/pg"
user = "postgres"
[repository.s3]
kind = "s3"
bucket = "bench"
prefix = "pgkeep"
endpoint = "$url"
region = "us-east-1"
access_key_id = "bench"
secret_access_key = "benchbench"
[retention.standard]
# As on any day: a few go.
keep_last = $((backups / series > 8 ? backups / series - 4 : 1))
[job.nightly]
kind = "dump"
server = "main"
databases = ["app"]
globals = false
schedule = "0 0 29 2 *"
repositories = ["s3"]
[job.prune]
kind = "prune"
schedule = "0 0 29 2 *"
repositories = ["s3"]
retention = "standard"
CONF
    chmod 600 "$here/pgkeep.toml"
    "$1" run nightly --config "$here/pgkeep.toml" >/dev/null 2>"$here/first.log"
    curl -sf -X POST "$url/crowd" >/dev/null
    "$1" daemon --config "$here/pgkeep.toml" >"$here/daemon.log" 2>&1 &
    daemon_pid=$!
    until [ -S "$here/run/control.sock" ]; do kill -0 "$daemon_pid"; sleep 0.2; done
    "$1" run nightly --config "$here/pgkeep.toml" >/dev/null 2>"$here/run.log"
    dump=$(awk '/VmHWM/ {print $2}' "/proc/$daemon_pid/status")
    "$1" run prune --dry-run --config "$here/pgkeep.toml" >/dev/null 2>>"$here/run.log"
    plan=$(awk '/VmHWM/ {print $2}' "/proc/$daemon_pid/status")
    "$1" run prune --config "$here/pgkeep.toml" >/dev/null 2>>"$here/run.log"
    peak=$(awk '/VmHWM/ {print $2}' "/proc/$daemon_pid/status")
    files=$(awk '/RssFile/ {print $2}' "/proc/$daemon_pid/status")
    echo "  $2: after the dump $dump KiB, after the plan $plan KiB, after the prune $peak KiB, $files KiB of files" >&2
    kill "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null || true
    daemon_pid=''
    kill "$s3_pid"
    wait "$s3_pid" 2>/dev/null || true
    s3_pid=''
    echo "$peak"
}

for round in $(seq "$rounds"); do
    old=$(measure "$other" "other$round")
    new=$(measure "$ours" "ours$round")
    echo "peak with $backups backups in $series series: $((old / 1024)) MiB, now $((new / 1024)) MiB, ratio $((new * 100 / old))/100"
done
