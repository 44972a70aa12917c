#!/bin/sh
# A plain dump cannot be restored by an older psql of the same major version.
#
# Guess:    within a major version the client programs can be mixed.
# Seen:     since August 2025 every pg_dump begins a plain dump with \restrict and a random key, a command
#           of psql that older releases of the same major do not have. Without ON_ERROR_STOP psql 16.2
#           complains, goes on and ends with 0. With ON_ERROR_STOP it stops before the first table. The key also
#           makes two dumps of an unchanged database differ, unless --restrict-key names one.
# Version:  pg_dump 16.14 with psql 16.2; the same with pg_dump 18.4.
# Output:   invalid command \restrict; with ON_ERROR_STOP: exit 3, tables restored 0
# Matters:  a restore often runs where nobody has updated for a year: an image, a spare machine. Custom archives
#           do not have the command, and a pg_restore of 16.2 reads them.
# Source:   own runs; the PostgreSQL release notes of August 2025.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
need_linux_x86_64
fetch_postgres
python3 -m pip -q --disable-pip-version-check download --no-deps --only-binary=:all: -d "$work/old" \
    --implementation cp --python-version 3.12 --platform manylinux_2_17_x86_64 pgserver==0.1.4 >&2 ||
    skip "the wheel with PostgreSQL 16.2 is not to be had"
python3 -m zipfile -e "$work"/old/*.whl "$work/old"
old=$work/old/pgserver/pginstall/bin
chmod +x "$old"/*

tables() { sql s16 "$1" -c "select count(*) from pg_tables where schemaname = 'public'"; }

start_server s16 16
sql s16 postgres -c "create table t (x int)" -c "create database loud" -c "create database strict" \
    -c "create database archive"
dump() { "$postgres/16/bin/pg_dump" -h "$work/s16" -U postgres "$@" postgres; }
dump >"$work/first.sql"
dump >"$work/second.sql"
echo "$("$postgres/16/bin/pg_dump" --version) and $("$old/psql" --version):"
cmp -s "$work/first.sql" "$work/second.sql" && changed "two dumps of the same are equal"
echo "    two dumps of the same database differ by: $(diff "$work/first.sql" "$work/second.sql" | grep -c '^<') lines"

if "$old/psql" -X -q -v ON_ERROR_STOP=1 -h "$work/s16" -U postgres -d strict -f "$work/first.sql" \
    >/dev/null 2>"$work/message"; then
    changed "psql 16.2 reads the dump"
else
    status=$?
fi
# Not with echo, for which \r may be a control character.
printf '    with ON_ERROR_STOP: %s' "$(head -n 1 "$work/message" | sed 's/.*error/error/')"
echo ", exit $status, tables restored $(tables strict)"
grep -q 'invalid command \\restrict' "$work/message" || changed "another message: $(cat "$work/message")"
[ "$(tables strict)" -eq 0 ] || changed "it restores the table"

"$old/psql" -X -q -h "$work/s16" -U postgres -d loud -f "$work/first.sql" >/dev/null 2>"$work/message" ||
    changed "without ON_ERROR_STOP psql fails, too"
echo "    without it: exit 0, lines on standard error $(wc -l <"$work/message"), tables restored $(tables loud)"

dump -Fc -f "$work/archive"
"$old/pg_restore" -h "$work/s16" -U postgres -d archive "$work/archive" || changed "pg_restore 16.2 fails"
echo "    a custom archive and pg_restore 16.2: exit 0, tables restored $(tables archive)"
