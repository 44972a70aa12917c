#!/bin/sh
# pg_basebackup compresses base.tar, and pg_wal.tar only with one of its compressions.
#
# Guess:    `pg_basebackup -Ft --compress=METHOD` writes compressed tar files, with one ending for all.
# Seen:     the WAL comes over a second connection, and what writes it to pg_wal.tar knows gzip alone, and only
#           where the client compresses. With lz4, zstd, or any compression by the server pg_wal.tar lies
#           uncompressed beside base.tar.zst.
# Version:  pg_basebackup 16.14 and 18.4 (built with gzip alone); also 15.18 and 19rc1 with all methods.
# Output:   client-gzip: base.tar.gz pg_wal.tar.gz; server-gzip: base.tar.gz pg_wal.tar
#           client-lz4: base.tar.lz4 pg_wal.tar; client-zstd and server-zstd: base.tar.zst pg_wal.tar
# Matters:  a busy server writes many gigabytes of WAL during a backup: the space that compression was to save.
#           A script that unpacks *.tar.zst leaves the WAL out, and the copy does not start.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

for major in $(postgres_majors 15); do
    start_server "s$major" "$major"
    echo "pg_basebackup $(version "$major"):"
    for method in client-gzip server-gzip client-lz4 client-zstd server-zstd; do
        folder "$work/b"
        if ! unprivileged "$postgres/$major/bin/pg_basebackup" -h "$work/s$major" -U postgres -Ft -X stream \
            -c fast --no-sync --compress="$method" -D "$work/b/$method" 2>"$work/message"; then
            grep -q 'not support' "$work/message" || broken "pg_basebackup fails: $(cat "$work/message")"
            echo "    $method: not built in"
            continue
        fi
        files=$(cd "$work/b/$method" && echo *.tar*)
        echo "    $method: $files"
        case $method in
        client-gzip) expected="base.tar.gz pg_wal.tar.gz" ;;
        server-gzip) expected="base.tar.gz pg_wal.tar" ;;
        client-lz4) expected="base.tar.lz4 pg_wal.tar" ;;
        *) expected="base.tar.zst pg_wal.tar" ;;
        esac
        [ "$files" = "$expected" ] || changed "$method makes other files: $files"
    done
    rm -rf "$work/b"
    stop_server "s$major" "$major"
done
