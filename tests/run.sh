#!/bin/sh
# Formatting, lints, and every test.
#
#   sh tests/run.sh [--long] [FILTER...]
#
# --long runs the tests that take minutes as well (PGKEEP_LONG=1). Filters are names of tests, or
# parts of them. PGKEEP_TEST_PG_BINS=DIR[:DIR...] names PostgreSQL versions other than the
# installed ones. Works as root (PostgreSQL then runs as an unprivileged user) and as a plain user.
set -eu

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"
}

cd -- "$(dirname -- "$0")/.."
# shellcheck source=packaging/needs.sh
. packaging/needs.sh

while [ $# -gt 0 ]; do
    case $1 in
    --long)
        PGKEEP_LONG=1
        export PGKEEP_LONG
        ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    -*) usage >&2 && exit 2 ;;
    *) break ;;
    esac
    shift
done

[ -n "${PGKEEP_TEST_PG_BINS:-}" ] || want_postgres
# Debian puts it where a plain user's PATH does not look.
[ -x /usr/sbin/pgbouncer ] || want pgbouncer pgbouncer
want zstd zstd
want age age
want openssl openssl
want curl curl
want jq jq
want build-essential cc
want_monitoring
if [ "${PGKEEP_LONG:-}" = 1 ]; then
    want_postgres_wheels
    want_postgres_19
    want_machine
fi
install_missing
if [ "${PGKEEP_LONG:-}" = 1 ]; then
    fetch_postgres_wheels
    fetch_postgres_19
    fetch_machine
fi
find_rust

step() {
    printf '\n--- %s\n' "$*"
    "$@"
}

if [ "${PGKEEP_LONG:-}" = 1 ]; then
    major=$(pg_config --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    sh tests/tools/regression_sources.sh target/postgresql/regress "${major:-15}" ||
        echo "SKIPPED: the package sources do not have PostgreSQL's regression tests"
    sh tests/tools/s3_servers.sh target/s3-servers ||
        echo "SKIPPED: the S3 servers of docs/S3.md could not be installed"
fi

step cargo fmt --check
if command -v shellcheck >/dev/null 2>&1; then
    step shellcheck -x packaging/*.sh tests/run.sh tests/tools/*.sh .ci/run
else
    echo "SKIPPED: shellcheck is not installed, the scripts were not checked"
fi
step sh tests/tools/deny.sh
step cargo clippy --locked --all-targets --features test-util -- -D warnings
if cargo nextest --version >/dev/null 2>&1; then
    # Many tests wait most of the time: for a limit, a signal, a disk.
    : "${NEXTEST_TEST_THREADS:=$(($(getconf _NPROCESSORS_ONLN) * 2))}"
    export NEXTEST_TEST_THREADS
    step cargo nextest run --locked --features test-util --config-file .ci/nextest.toml "$@"
else
    # libtest takes one filter or several alike; they go behind `--`.
    step cargo test --locked --features test-util -- "$@"
fi
[ "${PGKEEP_LONG:-}" = 1 ] || echo "SKIPPED: the long tests; --long runs them"
