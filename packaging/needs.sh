# shellcheck shell=sh
# What the demo and the tests need from the system. Sourced by packaging/demo.sh and tests/run.sh.

missing=

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

# Installs what was noted, or says what to do and fails.
install_missing() {
    [ -n "$missing" ] || return 0
    by_hand="apt-get install -y --no-install-recommends$missing"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "missing:$missing; install these (the names are Debian's), then run this again" >&2
        return 1
    fi
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1; then
        # Without a terminal nobody can type a password: fail instead of hanging.
        if [ -t 0 ]; then as_root=sudo; else as_root="sudo -n"; fi
    else
        echo "missing:$missing; run as root: $by_hand" >&2
        return 1
    fi
    echo "installing:$missing"
    # Split on purpose: a list of packages, and a command with its option.
    # shellcheck disable=SC2086
    {
        # One broken source among several is no reason to give up; the installation tells.
        $as_root apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null || true
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
            install -y --no-install-recommends $missing >/dev/null
    } || {
        echo "that failed; run as root: $by_hand" >&2
        return 1
    }
    missing=
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
