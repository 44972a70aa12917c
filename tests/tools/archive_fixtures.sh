#!/bin/sh
# Makes the archives tests/fixtures/archive/kinds-*.dump from kinds.sql, in the repository's root:
#
#   sh tests/tools/archive_fixtures.sh
#
# one of each PostgreSQL version to hand: the distribution's, and those that `sh tests/run.sh --long`
# unpacks into target/postgresql. What changes in the files between two runs is what each version
# counts on its own: OIDs, dump ids, the date.
set -eu

cd -- "$(dirname -- "$0")/../.."
fixtures=$PWD/tests/fixtures/archive
home=$(mktemp -d)
chmod 755 "$home"
trap 'rm -rf "$home"' EXIT

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
    else
        "$@"
    fi
}

# fixture MAJOR BIN
fixture() {
    folder=$home/$1
    mkdir "$folder"
    [ "$(id -u)" -ne 0 ] || chown nobody:nogroup "$folder"
    as_server "$2/initdb" --username=postgres --encoding=UTF8 --locale=C --no-sync \
        --pgdata="$folder/data" >/dev/null
    as_server "$2/pg_ctl" --pgdata="$folder/data" --log="$folder/log" --wait \
        --options="-k $folder -c listen_addresses= -c fsync=off" start >/dev/null
    export PGHOST="$folder" PGUSER=postgres PGDATABASE=postgres
    "$2/psql" -Xq -v ON_ERROR_STOP=1 -f "$fixtures/kinds.sql" >/dev/null
    with=
    [ "$1" -lt 18 ] || with=--statistics
    # Nothing, or one option.
    # shellcheck disable=SC2086
    "$2/pg_dump" -Fc -Z0 $with --load-via-partition-root | cat >"$fixtures/kinds-$1.dump"
    # shellcheck disable=SC2086
    "$2/pg_dump" -Fc -Z0 $with --inserts --rows-per-insert=2 | cat >"$fixtures/kinds-inserts-$1.dump"
    as_server "$2/pg_ctl" --pgdata="$folder/data" --mode=fast stop >/dev/null
}

for bin in /usr/lib/postgresql/*/bin target/postgresql/*/bin; do
    [ -x "$bin/pg_dump" ] || continue
    bin=$(cd -P -- "$bin" && pwd)
    major=$("$bin/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    fixture "$major" "$bin"
    echo "made kinds-$major.dump and kinds-inserts-$major.dump"
done
