#!/bin/sh
# Measures what DESIGN section 9 promises of dumps, each as a ratio against a peer in the same run:
#
#   1. a dump to a local repository  /  pg_dump -Fc -Z0 | zstd -T2 -3 to nowhere      promise <= 1.05
#   2. the same                      /  pg_dump -Fc -Z0 to nowhere                   promise <= 1.10
#      (only where compression has cores of its own: 4 or more)
#   3. a dump to S3                  /  pg_dump | aws s3 cp -                        promise <= 0.90
#      and its peak memory           /  that of aws                                  promise <  0.50
#   4. peak memory of the daemon     in MiB                          promise <= memory_budget (128)
#
# With --levels also a dump at compression_level -5, 1, 3 and 9 against the
# same zstd behind pg_dump, with the sizes. With --encrypt row 1 again, to an encrypted repository.
# Beside the times stands the processor time that each took, servers included: on a machine that
# does other work as well it says more. With --profile one more dump to local and one to S3 under
# `perf`, and where their processor time goes, by thread and by function.
#
# sh benches/dump.sh [--gb N] [--rounds N] [--levels] [--encrypt] [--profile] [--dir DIR]
#
# Needs PostgreSQL's server and client, zstd and the AWS command line (Debian: awscli); installs
# nothing. Peer and pgkeep take turns, so that a machine whose speed drifts does not favour one; the
# median of the rounds is printed.
set -eu

gb=2 rounds=3 dir='' timed='' levels='' encrypt='' profile=''
while [ $# -gt 0 ]; do
    case $1 in
        --gb) gb=$2; shift 2 ;;
        --rounds) rounds=$2; shift 2 ;;
        --dir) dir=$2; shift 2 ;;
        --levels) levels='-5 1 3 9'; shift ;;
        --encrypt) encrypt=yes; shift ;;
        --profile) profile=yes; shift ;;
        *) echo "usage: sh benches/dump.sh [--gb N] [--rounds N] [--levels] [--encrypt] [--profile] [--dir DIR]" >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
for tool in zstd aws psql cargo; do
    command -v "$tool" >/dev/null || { echo "bench: $tool is missing" >&2; exit 1; }
done
[ -z "$profile" ] || command -v perf >/dev/null || { echo "bench: perf is missing" >&2; exit 1; }
bin=$(find /usr/lib/postgresql /usr/pgsql-* -name initdb -printf '%h\n' 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || { echo "bench: no PostgreSQL server is installed" >&2; exit 1; }
[ -n "$dir" ] || { dir=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-bench.XXXXXX"); made=yes; }
mkdir -p "$dir"
chmod 755 "$dir"

echo "== build (release)"
cargo build --release --quiet --bin pgkeep
cargo build --release --quiet --example s3-server
target=${CARGO_TARGET_DIR:-target}
pgkeep=$(realpath "$target/release/pgkeep")
s3_server=$(realpath "$target/release/examples/s3-server")

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
    [ -z "${made:-}" ] || rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "== cluster, about $gb GB of rows"
mkdir -p "$dir/pg" && chown "$user" "$dir/pg"
as_pg "$bin/initdb" -D "$dir/pg/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust --no-sync >/dev/null
cat >>"$dir/pg/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir/pg'
fsync = off
full_page_writes = off
shared_buffers = 512MB
max_wal_size = 4GB
CONF
as_pg "$bin/pg_ctl" -D "$dir/pg/data" -w -l "$dir/pg/log" start >/dev/null
export PGHOST="$dir/pg" PGUSER=postgres
createdb bench
# Rows of an application: keys, times, amounts, names and addresses out of small vocabularies, a
# jsonb document, a few words of free text. About 330 bytes a row.
rows=$((gb * 3100000))
psql -q -d bench -v rows="$rows" <<'SQL'
create table orders (
    id bigint, customer int, placed timestamptz, amount numeric(12,2), status text,
    email text, street text, document jsonb, note text);
insert into orders
select i, (random() * 200000)::int, '2020-01-01'::timestamptz + i * interval '11 seconds',
    round((random() * 900)::numeric, 2),
    (array['new','paid','packed','shipped','returned'])[1 + (random() * 4)::int],
    (array['anna','bela','carl','dora','emil','fanny'])[1 + (random() * 5)::int] || (random() * 99999)::int || '@example.org',
    (array['Hauptstrasse','Bahnhofweg','Seegasse','Lindenallee'])[1 + (random() * 3)::int] || ' ' || (random() * 220)::int,
    jsonb_build_object('channel', (array['web','shop','phone'])[1 + (random() * 2)::int],
        'items', (random() * 9)::int, 'weight_g', (random() * 20000)::int,
        'ref', substr(md5(i::text), 1, 12), 'gift', random() < 0.1),
    concat_ws(' ', p[1 + (random() * 7)::int], p[1 + (random() * 7)::int], (random() * 999)::int, p[1 + (random() * 7)::int], p[1 + (random() * 7)::int])
from (select array['please deliver after noon', 'ring twice and wait', 'leave it at the door', 'the neighbour takes it', 'blue house behind the gate', 'call before you come', 'thank you', 'not on Mondays'] p) words, generate_series(1, :rows::bigint) i;
checkpoint;
SQL
echo "database: $(psql -At -d bench -c 'select pg_size_pretty(pg_database_size(current_database()))')"

echo "== S3 server and daemon"
mkdir -p "$dir/s3" "$dir/repository"
"$s3_server" --dir "$dir/s3" --listen 127.0.0.1:0 --access-key bench --secret-key benchbench --bucket bench >"$dir/s3.out" 2>&1 &
s3_pid=$!
until grep -q 'listening on' "$dir/s3.out"; do kill -0 "$s3_pid"; sleep 0.1; done
endpoint=$(sed -n 's/^listening on //p' "$dir/s3.out")
cat >"$dir/pgkeep.toml" <<CONF
[daemon]
state_dir = "$dir/state"
runtime_dir = "$dir/run"
listen = "off"
log_level = "warn"
# As the peer: by default programs run at 10, and lose against whatever else the machine does.
nice = 0
[server.bench]
host = "$dir/pg"
user = "postgres"
[repository.local]
kind = "local"
path = "$dir/repository"
min_free = "1MiB"
[repository.s3]
kind = "s3"
bucket = "bench"
prefix = "pgkeep"
endpoint = "$endpoint"
region = "us-east-1"
path_style = true
access_key_id = "bench"
secret_access_key = "benchbench"
[job.local]
kind = "dump"
server = "bench"
databases = ["bench"]
globals = false
attempts = 1
repositories = ["local"]
workers = 2
[job.s3]
kind = "dump"
server = "bench"
databases = ["bench"]
globals = false
attempts = 1
repositories = ["s3"]
workers = 2
CONF
for level in $levels; do
    cat >>"$dir/pgkeep.toml" <<CONF
[job.level$level]
kind = "dump"
server = "bench"
databases = ["bench"]
globals = false
attempts = 1
repositories = ["local"]
workers = 2
compression_level = $level
CONF
done
if [ -n "$encrypt" ]; then
    command -v age-keygen >/dev/null || { echo "bench: age is missing" >&2; exit 1; }
    mkdir "$dir/sealed"
    cat >>"$dir/pgkeep.toml" <<CONF
[repository.sealed]
kind = "local"
path = "$dir/sealed"
min_free = "1MiB"
encrypt_to = ["$(age-keygen 2>/dev/null | sed -n 's/^# public key: //p')"]
[job.sealed]
kind = "dump"
server = "bench"
databases = ["bench"]
globals = false
attempts = 1
repositories = ["sealed"]
workers = 2
CONF
fi
chmod 600 "$dir/pgkeep.toml"
# As in systemd/pgkeep.service.
MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576 "$pgkeep" daemon --config "$dir/pgkeep.toml" 2>"$dir/daemon.log" &
daemon_pid=$!
until "$pgkeep" status --config "$dir/pgkeep.toml" >/dev/null 2>&1; do kill -0 "$daemon_pid"; sleep 0.1; done

export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=benchbench AWS_DEFAULT_REGION=us-east-1
export AWS_EC2_METADATA_DISABLED=true
dump() { "$bin/pg_dump" -Fc -Z0 -d bench; }
peer_zstd() { dump | zstd -q -T2 -3 -c >/dev/null; }
peer_none() { dump >/dev/null; }
# zstd has its negative levels under another name.
zstd_level() { case $1 in -*) echo "--fast=${1#-}" ;; *) echo "-$1" ;; esac; }
peer_level() { dump | zstd -q -T2 "$(zstd_level "$1")" -c | wc -c >"$dir/bytes.peer$1"; }
ours_level() { ours "level$1"; find "$dir/repository/bench" -name '*.dump.zst*' -printf '%s\n' >"$dir/bytes.ours$1"; }
# pg_dump compresses with zstd itself where it can (16 and newer); else zstd does beside it.
if "$bin/pg_dump" --help | grep -q 'METHOD\[:DETAIL\]'; then
    s3_dump() { "$bin/pg_dump" -Fc -Z zstd:3 -d bench; }
else
    s3_dump() { dump | zstd -q -3 -c; }
fi
peer_aws() { s3_dump | measured_aws; }
measured_aws() {
    if [ -x /usr/bin/time ]; then
        /usr/bin/time -f %M -a -o "$dir/aws.rss" aws --endpoint-url "$endpoint" s3 cp - s3://bench/peer.zst --quiet
    else
        aws --endpoint-url "$endpoint" s3 cp - s3://bench/peer.zst --quiet
    fi
}
ours() { "$pgkeep" run "$1" --config "$dir/pgkeep.toml" >"$dir/run.log" 2>&1 || { cat "$dir/run.log" >&2; exit 1; }; }

# Processor time of everything that took part, in ms: what this shell waited for, the daemon with
# its children, the S3 server, and PostgreSQL with the backends that it has seen end.
processor() {
    postmaster=$(head -n 1 "$dir/pg/data/postmaster.pid")
    for pid in $$ "$daemon_pid" "$s3_pid" "$postmaster"; do
        sed 's/.*) //' "/proc/$pid/stat"
    done | awk -v hz="$(getconf CLK_TCK)" '{sum += $12 + $13 + $14 + $15} END {printf "%d\n", sum * 1000 / hz}'
}
seconds() {
    busy=$(processor)
    begin=$(date +%s%N)
    "$@"
    end=$(date +%s%N)
    # The backend may end a moment after its client.
    sleep 0.2
    echo $(($(processor) - busy)) >>"$dir/processor.$timed"
    echo $(((end - begin) / 1000000)) >>"$dir/times.$timed"
    rm -rf "$dir/repository/bench" "$dir/s3/bench/pgkeep/bench" "$dir/s3/bench/peer.zst"
    rm -rf "$dir/sealed/bench"
}
round() {
    timed=peer_zstd seconds peer_zstd
    timed=peer_none seconds peer_none
    timed=local seconds ours local
    timed=peer_aws seconds peer_aws
    timed=s3 seconds ours s3
    # Before other levels take more.
    [ -n "${peak:-}" ] || peak=$(awk '/VmHWM/ {printf "%.0f", $2 / 1024}' "/proc/$daemon_pid/status")
    [ -z "$encrypt" ] || timed=sealed seconds ours sealed
    for level in $levels; do
        timed=peer_level$level seconds peer_level "$level"
        timed=level$level seconds ours_level "$level"
    done
}
echo "== warm-up"
seconds_warm() { timed=warm seconds "$@"; }
seconds_warm peer_none
seconds_warm ours local
for i in $(seq "$rounds"); do
    echo "== round $i of $rounds"
    round
done

median_of() { sort -n "$dir/$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
median() { median_of "times.$1"; }
ratio() { awk -v a="$(median "$1")" -v b="$(median "$2")" 'BEGIN {printf "%.2f", a / b}'; }
# The same of the processor time.
share() { awk -v a="$(median_of "processor.$1")" -v b="$(median_of "processor.$2")" 'BEGIN {printf "%.2f", a / b}'; }
cores=$(nproc)
echo
echo "on $cores cores, PostgreSQL $("$bin/postgres" --version | sed 's/[^0-9]*//'), medians of $rounds rounds (ms, and ms of processor):"
for name in peer_zstd peer_none local peer_aws s3; do echo "  $name: $(median $name)  $(median_of "processor.$name")"; done
echo
echo "                                            time  processor"
echo "1. local / (pg_dump -Z0 | zstd -T2 -3)     $(ratio local peer_zstd)   $(share local peer_zstd)   promise <= 1.05"
note=''
[ "$cores" -ge 4 ] || note='   (no verdict: the promise is for 4 cores or more)'
echo "2. local / (pg_dump -Z0)                   $(ratio local peer_none)   $(share local peer_none)   promise <= 1.10$note"
echo "3. S3 / (pg_dump, zstd | aws s3 cp -)      $(ratio s3 peer_aws)   $(share s3 peer_aws)   promise <= 0.90"
if [ -s "$dir/aws.rss" ]; then
    rss=$(sort -n "$dir/aws.rss" | awk '{v[NR] = $1} END {printf "%.0f", v[int((NR + 1) / 2)] / 1024}')
    echo "   peak memory, daemon / aws               $(awk -v a="$peak" -v b="$rss" 'BEGIN {printf "%.2f", a / b}')          promise <  0.50  (aws $rss MiB)"
else
    echo "   peak memory of aws: not measured (GNU time is missing)"
fi
echo "4. peak memory of the daemon, MiB          $peak   promise <= 128"
[ -z "$encrypt" ] || echo "   encrypted / (pg_dump -Z0 | zstd -T2 -3) $(ratio sealed peer_zstd)   $(share sealed peer_zstd)"
for level in $levels; do
    size=$(awk -v a="$(awk '{s += $1} END {print s}' "$dir/bytes.ours$level")" -v b="$(cat "$dir/bytes.peer$level")" 'BEGIN {printf "%.3f", a / b}')
    echo "   local at level $level / zstd -T2 $(zstd_level "$level")  $(ratio "level$level" "peer_level$level")   $(share "level$level" "peer_level$level")   size $size, $(median "level$level") ms"
done
# What took part: the daemon with its threads, pg_dump, the server's backends, the S3 server.
comms=pgkeep,pgkeep-read,pgkeep-zstd,pgkeep-seal,pgkeep-stream,tokio-rt-worker,pg_dump,postgres,s3-server
for job in ${profile:+local s3}; do
    perf record -q -a -e cpu-clock -F 499 -o "$dir/perf.data" -- "$pgkeep" run "$job" --config "$dir/pgkeep.toml" >"$dir/run.log" 2>&1
    echo
    echo "where the processor time of a dump to $job goes, % of all that took part:"
    perf report -q -i "$dir/perf.data" --comms "$comms" --percentage relative --sort comm --stdio 2>/dev/null | sed '/^$/d; s/^/  /'
    echo "  ..."
    perf report -q -i "$dir/perf.data" --comms "$comms" --percentage relative --sort comm,symbol --stdio 2>/dev/null | sed '/^$/d; s/^/  /' | head -n 30
    rm -rf "$dir/repository/bench" "$dir/s3/bench/pgkeep/bench"
done
