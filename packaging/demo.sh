#!/bin/sh
# pgkeep from end to end, on a throwaway PostgreSQL cluster and a throwaway S3 server.
#
#   sh packaging/demo.sh [--once] [--verbose] [--dir DIR]
#
# --once     ends when everything was shown: exit code 0, or that of the first failure. Without it
#            the daemon stays up until Ctrl-C.
# --verbose  shows the configuration, each command of pgkeep and what it said, as it comes. Without it
#            that goes to demo.log, and each step is one line.
# --dir DIR  keeps everything that it makes in DIR, which must be empty or not there yet.
#
# Needs a Rust toolchain; installs what else is missing on Debian and Ubuntu. Touches nothing
# outside of its folder: no port but free ones of 127.0.0.1, no other PostgreSQL. Works as root
# (PostgreSQL then runs as an unprivileged user) and as a plain user.
#
# shellcheck disable=SC2317  # functions that only a trap or `await` calls
set -eu

usage() {
    sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p;}' "$0" | sed '$d'
}

once=false
verbose=false
dir=
while [ $# -gt 0 ]; do
    case $1 in
    --once) once=true ;;
    --verbose) verbose=true ;;
    --dir)
        [ $# -gt 1 ] || { usage >&2 && exit 2; }
        dir=$2
        shift
        ;;
    --dir=*) dir=${1#--dir=} ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

root=$(cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=packaging/needs.sh
. "$root/packaging/needs.sh"
# shellcheck source=packaging/demo/jobs.sh
. "$root/packaging/demo/jobs.sh"
# shellcheck source=packaging/demo/alerts.sh
. "$root/packaging/demo/alerts.sh"

# What others of the machine's environment must not decide.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGPASSWORD PGDATABASE PGSERVICE PGOPTIONS PGSSLMODE \
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_REGION \
    AWS_ENDPOINT_URL NOTIFY_SOCKET WATCHDOG_USEC
umask 022

app=app
# A quote, a slash, two dots, a space and four bytes of UTF-8: what a name may hold.
hostile='we"ird/.. 🐘'
bucket=demo-backups
access_key=DEMOACCESSKEY

# ---------------------------------------------------------------------------------------------
# Telling what happens, and failing

# The story goes to descriptor 3, all else to standard output: the log, or the terminal with --verbose.
exec 3>&1 4>&2

number=0
doing=
began=0
terminal=false
if [ -t 1 ] && ! $verbose; then terminal=true; fi

now() {
    date +%s
}

# step WHAT: what is done now. On a terminal it stands there until `done_so` says what came of it.
step() {
    number=$((number + 1))
    doing=$*
    began=$(now)
    printf '\n== %d. %s\n' "$number" "$doing"
    if $terminal; then printf '   …        %s' "$doing" >&3; fi
}

# done_so RESULT: one line for the whole step.
done_so() {
    if $terminal; then printf '\r\033[K' >&3; fi
    printf '   ok %3d s  %s\n' "$(($(now) - began))" "$*" >&3
}

say() {
    printf '   %s\n' "$*"
}

indent() {
    sed 's/^/   | /'
}

fail() {
    if $terminal && [ -n "$doing" ]; then printf '\n' >&4; fi
    printf 'demo: %s: %s\n' "${doing:-the beginning}" "$*" >&4
    exit 1
}

# show COMMAND...: prints a command of pgkeep, runs it, prints what it said; its exit code.
show() {
    printf '   $ pgkeep %s\n' "$*"
    shown=0
    "$pgkeep" "$@" --config "$config" >"$dir/last-output" 2>&1 || shown=$?
    indent <"$dir/last-output"
    return "$shown"
}

# facts COMMAND...: what pgkeep prints as JSON.
facts() {
    "$pgkeep" "$@" --config "$config" --json
}

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
    limit=$(($1 * 5))
    what=$2
    shift 2
    until "$@"; do
        limit=$((limit - 1))
        [ "$limit" -gt 0 ] || fail "waited in vain: $what"
        sleep 0.2
    done
}

# ---------------------------------------------------------------------------------------------
# Cleaning up: on every way out, in the order in which things depend on each other

daemon=
s3_server=
cluster_started=false
keep=false
run=

# stop PID SECONDS: TERM, and KILL where that is not enough.
stop() {
    kill -TERM "$1" 2>/dev/null || return 0
    left=$(($2 * 5))
    while kill -0 "$1" 2>/dev/null; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            kill -KILL "$1" 2>/dev/null || true
            break
        fi
        sleep 0.2
    done
    wait "$1" 2>/dev/null || true
}

clean_up() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    if [ "$code" -ne 0 ] && [ "$code" -lt 129 ] && [ -n "$run" ]; then
        for log in daemon s3-server postgres/server prometheus demo; do
            if [ -s "$dir/$log.log" ]; then
                printf -- '--- the end of %s.log\n' "$log" >&4
                tail -n 40 "$dir/$log.log" >&4
            fi
        done
    fi
    [ -z "$prometheus" ] || stop "$prometheus" 20
    [ -z "$daemon" ] || stop "$daemon" 60
    [ -z "$s3_server" ] || stop "$s3_server" 10
    if $cluster_started; then
        as_postgres "$bin/pg_ctl" -D "$dir/postgres/data" -m fast -w stop >/dev/null
    fi
    if $keep; then
        [ -z "$dir" ] || echo "everything is kept in $dir" >&3
        [ -z "$run" ] || rm -rf -- "$run"
    elif [ -n "$run" ]; then
        rm -rf -- "$run"
    fi
    exit "$code"
}

# ---------------------------------------------------------------------------------------------
# The parts

build() {
    (
        cd -- "$root"
        cargo build --locked --bin pgkeep
        cargo build --locked --example s3-server
    )
    target=$(cd -- "$root" && cargo metadata --locked --no-deps --format-version 1 |
        jq -r .target_directory)
    pgkeep=$target/debug/pgkeep
    s3_server_program=$target/debug/examples/s3-server
}

# Two folders: `dir` holds what may be kept; `run` is short, because the path of a Unix socket may
# have 107 bytes. They are the same where nothing is kept.
make_folders() {
    run=$(mktemp -d /tmp/pgkeep-demo.XXXXXX)
    chmod 755 "$run"
    if [ -n "$dir" ]; then
        mkdir -p -- "$dir"
        dir=$(cd -- "$dir" && pwd)
        [ -z "$(ls -A -- "$dir")" ] || fail "$dir is not empty"
        case $dir in
        *[\'\"\\%]*) fail "$dir: such a name would need quoting in three languages" ;;
        esac
        keep=true
    else
        dir=$run
    fi
    if ! $verbose; then exec >>"$dir/demo.log" 2>&1; fi
}

make_parts() {
    mkdir "$dir/postgres" "$dir/wal-archive" "$dir/s3" "$dir/repository" "$dir/restored" "$run/socket"
    mkdir -m 700 "$dir/state" "$run/pgkeep" "$dir/etc"

    postgres_user=
    if [ "$(id -u)" -eq 0 ]; then
        postgres_user=nobody
        if id postgres >/dev/null 2>&1; then postgres_user=postgres; fi
        chown "$postgres_user" "$dir/postgres" "$dir/wal-archive" "$run/socket"
        as_postgres test -w "$dir/postgres" ||
            fail "PostgreSQL runs as $postgres_user, who may not enter $dir: choose another --dir"
    fi
}

# A program of the server's side: PostgreSQL refuses to run as root.
as_postgres() {
    if [ -z "$postgres_user" ]; then
        (cd / && "$@")
    else
        (cd / && setpriv --reuid "$postgres_user" --regid "$(id -g "$postgres_user")" \
            --clear-groups -- "$@")
    fi
}

# sql DATABASE [OPTION...]: runs standard input in that database.
sql() {
    quoted=$(printf %s "$1" | sed "s/[\\\\']/\\\\&/g")
    shift
    "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -h "$run/socket" -U postgres -d "dbname='$quoted'" "$@"
}

start_cluster() {
    as_postgres "$bin/initdb" --username postgres --encoding UTF8 --locale C.UTF-8 \
        --auth trust --no-sync --pgdata "$dir/postgres/data" >"$dir/initdb.log"
    # Appended as its owner: a folder of others is not for root to write to.
    as_postgres tee -a "$dir/postgres/data/postgresql.conf" >/dev/null <<CONF

# From packaging/demo.sh: on a socket only, archiving its WAL, not caring for a power cut.
listen_addresses = ''
unix_socket_directories = '$run/socket'
shared_buffers = 32MB
fsync = off
archive_mode = on
archive_command = 'test ! -f "$dir/wal-archive/%f" && cp "%p" "$dir/wal-archive/%f"'
CONF
    as_postgres "$bin/pg_ctl" -D "$dir/postgres/data" -l "$dir/postgres/server.log" -w start \
        >/dev/null
    cluster_started=true
}

load_data() {
    data=$root/packaging/demo
    sql postgres <"$data/roles.sql"
    sql postgres <<SQL
CREATE DATABASE $app OWNER shop_owner;
COMMENT ON DATABASE $app IS 'The shop';
CREATE DATABASE "$(printf %s "$hostile" | sed 's/"/""/g')" TEMPLATE template0
    LC_COLLATE 'C' LC_CTYPE 'C.UTF-8';
SQL
    sql "$app" -v customers=10000 <"$data/app.sql"
    sql "$hostile" <"$data/hostile.sql"
    # The role that pgkeep connects as: what an administrator runs on a server of their own.
    sql postgres <"$root/packaging/sql/role.sql"
    echo 'SELECT pg_switch_wal()' | sql postgres >/dev/null
    await 60 "the first WAL segment in the archive" archived
}

archived() {
    [ "$(echo 'SELECT archived_count > 0 FROM pg_stat_archiver' | sql postgres)" = t ]
}

start_s3() {
    secret_key=$(openssl rand -hex 20)
    "$s3_server_program" --dir "$dir/s3" --listen 127.0.0.1:0 --access-key "$access_key" \
        --secret-key "$secret_key" --bucket "$bucket" >"$dir/s3-server.log" 2>&1 &
    s3_server=$!
    await 60 "the S3 server" s3_listens
    s3_url=$(s3_address)
}

s3_address() {
    sed -n 's/.*listening on \(http:[^ ]*\).*/\1/p' "$dir/s3-server.log"
}

s3_listens() {
    kill -0 "$s3_server" 2>/dev/null || fail "the S3 server ended"
    [ -n "$(s3_address)" ]
}

write_config() {
    config=$dir/etc/pgkeep.toml
    (umask 077 && printf %s "$secret_key" >"$dir/etc/s3-secret-key")
    (umask 077 && cat >"$config") <<TOML
# Written by packaging/demo.sh
[daemon]
state_dir   = "$dir/state"
runtime_dir = "$run/pgkeep"
listen      = "127.0.0.1:0"
timezone    = "Europe/Zurich"

[server.demo]
host = "$run/socket"
user = "pgkeep"
# Before PostgreSQL 17 VACUUM and REINDEX take the owner of the tables, or a superuser.
maintenance_user = "postgres"

[repository.local]
kind     = "local"
path     = "$dir/repository"
min_free = "64MiB"

[repository.offsite]
kind                   = "s3"
endpoint               = "$s3_url"
region                 = "us-east-1"
path_style             = true
bucket                 = "$bucket"
prefix                 = "db1"
access_key_id          = "$access_key"
secret_access_key_file = "$dir/etc/s3-secret-key"

[job.nightly]
kind         = "dump"
server       = "demo"
databases    = ["*"]
schedule     = "15 2 * * *"
repositories = ["local", "offsite"]
TOML
}

start_daemon() {
    # A session of its own, so that Ctrl-C reaches the demo alone and the daemon ends in order.
    setsid "$pgkeep" daemon --config "$config" >"$dir/daemon.log" 2>&1 </dev/null &
    daemon=$!
    await 60 "a daemon that is ready" daemon_ready
}

page() {
    curl -sS --fail --max-time 10 --noproxy '*' "http://$(cat "$run/pgkeep/http.addr")/$1"
}

daemon_ready() {
    kill -0 "$daemon" 2>/dev/null || fail "the daemon ended"
    [ -s "$run/pgkeep/http.addr" ] && page readyz >/dev/null 2>&1
}

# newest REPOSITORY SUBJECT: the id of the newest complete backup there; ids sort by time.
newest() {
    facts list | jq -er --arg repository "$1" --arg subject "$2" '
        [.[] | select(.repository == $repository and .subject == $subject and .complete)]
        | max_by(.id) | .id' || fail "no complete backup of $2 is listed in $1"
}

# unpack ROOT ID PLAIN: finds a backup by its manifest, checks what is stored and what comes out
# of it, and writes the plain bytes. Needs find, jq, sha256sum, zstd and age; no pgkeep.
unpack() {
    folder=$(find "$1" -type d -name "$2")
    [ -f "$folder/manifest.json" ] || fail "there is no manifest of $2 below $1"
    (
        cd -- "$folder"
        jq -r '.objects[] | "\(.sha256)  \(.name)"' manifest.json |
            sha256sum --check --quiet - >&2
        jq -r '.objects[].name' manifest.json | while IFS= read -r name; do cat "./$name"; done
    ) >"$3.zst"
    if jq -e '.codec | index("age")' "$folder/manifest.json" >/dev/null; then
        mv "$3.zst" "$3.zst.age"
        age -d -i "$dir/restored/vault.key" -o "$3.zst" "$3.zst.age"
        rm "$3.zst.age"
        say "$2 was encrypted; it is decrypted with age and the key that is not on the host"
    fi
    zstd -dcq "$3.zst" >"$3"
    rm "$3.zst"
    [ "$(sha256sum <"$3" | cut -d ' ' -f 1)" = "$(jq -r .plain.sha256 "$folder/manifest.json")" ] ||
        fail "the plain bytes of $2 are not those that were dumped"
    say "$2: $(wc -c <"$3") plain bytes, stored as $(jq '[.objects[].bytes] | add' \
        "$folder/manifest.json"); every SHA-256 is right"
}

# restore PLAIN NEW: into a new database, made as the manifest says.
restore() {
    setting() { jq -r ".database.$1" "$folder/manifest.json"; }
    "$bin/createdb" -h "$run/socket" -U postgres --template template0 \
        --encoding "$(setting encoding)" --lc-collate "$(setting collate)" \
        --lc-ctype "$(setting ctype)" "$2"
    "$bin/pg_restore" -h "$run/socket" -U postgres --exit-on-error --dbname "$2" "$1"
}

# same_data A B: whether two databases hold the same.
same_data() {
    sql "$1" <"$root/packaging/demo/fingerprint.sql" >"$dir/restored/expected"
    sql "$2" <"$root/packaging/demo/fingerprint.sql" >"$dir/restored/found"
    # An empty fingerprint would be the same as another one.
    grep -q '^table ' "$dir/restored/expected" || fail "nothing was compared"
    diff "$dir/restored/expected" "$dir/restored/found" >"$dir/restored/differences" || {
        indent <"$dir/restored/differences"
        fail "$2 does not hold the same data as $1"
    }
    same="$(grep -c '^table ' "$dir/restored/found") tables,"
    same="$same $(grep -c '^sequence ' "$dir/restored/found") sequences and"
    same="$same $(grep -c '^large object ' "$dir/restored/found") large objects are equal"
    say "$1 and $2: $same"
}

# metric NAME: its value, where it has no labels.
metric() {
    page metrics | sed -n "s/^$1 //p"
}

refused_reload() {
    cp -p "$config" "$dir/etc/good"
    cat >>"$config" <<'TOML'

[job.weekly]
kind         = "dump"
server       = "dmeo"
databases    = ["*"]
schedule     = "0 3 31 2 *"
repositories = ["local"]
TOML
    code=0
    show reload || code=$?
    [ "$code" -eq 3 ] || fail "a reload of a broken configuration ended with exit code $code, not 3"
    [ "$(metric pgkeep_config_last_reload_successful)" = 0 ] || fail "the metrics call it a success"
    say "exit code 3; the old configuration runs on:"
    show status
    cp -p "$dir/etc/good" "$config"
}

accepted_reload() {
    sed 's/"15 2 \* \* \*"/"45 3 * * *"/' "$dir/etc/good" >"$config"
    grep -q '"45 3 ' "$config" || fail "the schedule was not changed"
    show reload
    [ "$(metric pgkeep_config_last_reload_successful)" = 1 ] || fail "the metrics call it a failure"
    show schedule next -n 1
}

# ---------------------------------------------------------------------------------------------
# The story

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

want_postgres
for program in zstd jq curl openssl age; do want "$program" "$program"; done
want build-essential cc
want_monitoring
install_missing
find_rust
bin=$(postgres_bin)
make_folders

printf 'pgkeep from end to end, on throwaway servers\n' >&3
$terminal || echo "   building; the first time it takes some minutes" >&3
step "Build pgkeep, and a small S3 server that is no part of it"
build
done_so "built $("$pgkeep" --version)"

step "A PostgreSQL cluster with WAL archiving and two databases, and an S3 server"
make_parts
start_cluster
load_data
sql postgres <<'SQL' | indent
SELECT datname, pg_size_pretty(pg_database_size(oid)) FROM pg_database
WHERE NOT datistemplate ORDER BY datname
SQL
say "archived WAL segments: $(find "$dir/wal-archive" -type f | wc -l)"
start_s3
say "$s3_url, bucket $bucket"
done_so "$("$bin/postgres" --version) with two databases, one of them \`$hostile\`; an S3 server"

step "The configuration, with a job of each kind, and the daemon"
make_keys
write_config
more_config
indent <"$config"
show check-config
start_daemon
say "process $daemon listens on http://$(cat "$run/pgkeep/http.addr"):" \
    "/metrics, /healthz and /readyz"
done_so "the daemon is ready with $(grep -c '^\[job\.' "$config") jobs"

step "Dump all databases to a disk and to the bucket in one pass"
show run nightly
show status
show list
local_id=$(newest local "$hostile")
offsite_id=$(newest offsite "$app")
show show "$offsite_id"
made=$(facts list | jq '[.[] | select(.complete)] | length')
done_so "dumped in one pass to both repositories: $made backups, each proven whole"

step "Restore the hostile database from the local repository with standard tools"
unpack "$dir/repository" "$local_id" "$dir/restored/hostile.dump"
restore "$dir/restored/hostile.dump" restored_hostile
same_data "$hostile" restored_hostile
done_so "restored from the disk with zstd and pg_restore: $same"

step "Restore the shop from what lies in the bucket with standard tools"
unpack "$dir/s3/$bucket/db1" "$offsite_id" "$dir/restored/app.dump"
restore "$dir/restored/app.dump" restored_app
same_data "$app" restored_app
globals_id=$(newest offsite @globals)
unpack "$dir/s3/$bucket/db1" "$globals_id" "$dir/restored/globals.sql"
grep -q '^CREATE ROLE shop_owner;' "$dir/restored/globals.sql" || fail "the globals lack a role"
say "the globals hold $(grep -c '^CREATE ROLE' "$dir/restored/globals.sql") roles"
done_so "restored from the bucket: $same"

step "Copy the backups to a vault, encrypted on the way; decrypt and restore one"
copies
done_so "copied to a vault, encrypted; decrypted with age and restored: $same"

step "Retention: say what would go and why, then let it go"
retention
done_so "pruned by policy: of three backups of each series the newest two stay, as the dry run said"

step "VACUUM where it is needed, and an index that is left behind invalid"
maintenance
done_so "vacuumed the table that needed it; an index that was left invalid is built anew"

step "WAL archive checks, and a segment that disappears"
wal_archive
done_so "a WAL segment was taken out of the archive: found (exit code 7), and the pager was told"

step "Prometheus with the shipped alert rules"
alerts
done_so "Prometheus fired PgkeepWalArchiveGap, and resolved it when the segment was back"

step "A reload that is refused, and one that is accepted"
refused_reload
accepted_reload
done_so "a broken configuration was refused with all its errors, and the old one ran on"

step "The metrics (without help texts and the process's own)"
page metrics >"$dir/metrics.txt"
grep '^pgkeep_' "$dir/metrics.txt" | grep -v '_bucket{' | indent
grep -q '^pgkeep_backup_last_success_timestamp_seconds{' "$dir/metrics.txt" ||
    fail "no metric tells of the backups"
say "what the daemon warned of (a refused reload is on purpose):"
grep -E '(^|[ "])(WARN|ERROR)[ "]' "$dir/daemon.log" | indent
alert_table
done_so "$(grep -c '^pgkeep_' "$dir/metrics.txt") samples at /metrics; $alert_count"

step "The summary"
show list
show schedule next -n 1
{
    printf '\nWhere it stands\n'
    facts list | jq -r '[.[] | select(.complete)] | group_by(.repository)[] |
        "   \(.[0].repository): \(length) backups, \(map(.bytes) | add) bytes stored"'
    printf '   next:\n'
    "$pgkeep" schedule next -n 1 --config "$config" | sed 's/^/      /'
} >&3

if $once; then
    step "The end: the daemon stops in order"
    kill -TERM "$daemon"
    code=0
    wait "$daemon" || code=$?
    daemon=
    [ "$code" -eq 0 ] || fail "the daemon ended with exit code $code"
    done_so "the daemon stopped in order; --verbose shows all that was said on the way"
    exit 0
fi

cat >&3 <<TEXT

All that was said on the way: $dir/demo.log. Everything stays up until Ctrl-C; try

   $pgkeep status --config $config
   curl http://$(cat "$run/pgkeep/http.addr")/metrics
   psql -h $run/socket -U postgres $app
TEXT
trap 'echo >&3; exit 0' INT
code=0
wait "$daemon" || code=$?
daemon=
fail "the daemon ended by itself with exit code $code"
