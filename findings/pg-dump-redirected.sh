#!/bin/sh
# `pg_dump -Fc >file` writes its table of contents twice.
#
# Guess:    `pg_dump -Fc -f file` and `pg_dump -Fc >file` make the same archive: both files can seek, so
#           pg_dump goes back at the end and enters where each table's data begin.
# Seen:     from 16 on, pg_dump duplicates its standard output in mode "a", and that sets O_APPEND on the open
#           file which both descriptors share. It still seeks back, but what it writes then lands at the end:
#           the first table of contents never learns the places of the data, and a second one follows the
#           data. pg_restore reads such an archive without a word, but stops before the second table of
#           contents. What feeds it through a pipe then dies of SIGPIPE, once that part is larger than a pipe.
# Version:  pg_dump 16.14 and 18.4; also 17.9 and 19rc1. 15.18 does as guessed.
# Output:   18.4: 289458 bytes with -f, 567238 with >; cat | pg_restore: cat ends with 141, pg_restore with 0
# Matters:  of a database with many tables and few rows the backup is twice as large; a restore through
#           `zstd -dc | pg_restore` under pipefail looks failed and is not; pg_restore finds one table only by
#           reading on from the start; whatever else writes to that descriptor later appends, too.
# Source:   own runs with strace (dup(1), then F_SETFL with O_APPEND, then a seek); open_none() in
#           src/bin/pg_dump/compress_none.c of PostgreSQL.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

for major in $(postgres_majors 16); do
    start_server "s$major" "$major"
    sql "s$major" postgres -c "do \$\$ begin for i in 1..400 loop
        execute format('create table t%s (id int primary key, note text)', i); end loop; end \$\$"
    dump() { "$postgres/$major/bin/pg_dump" -h "$work/s$major" -U postgres -Fc "$@" postgres; }
    dump -f "$work/named"
    dump >"$work/redirected"
    named=$(wc -c <"$work/named")
    redirected=$(wc -c <"$work/redirected")
    echo "pg_dump $(version "$major"): $named bytes with -f, $redirected with >"
    [ "$redirected" -gt $((named * 3 / 2)) ] || changed "both archives are about as long"

    "$postgres/$major/bin/pg_restore" -l "$work/named" | grep -v '^;' >"$work/named.list"
    "$postgres/$major/bin/pg_restore" -l "$work/redirected" | grep -v '^;' >"$work/redirected.list"
    cmp -s "$work/named.list" "$work/redirected.list" || changed "pg_restore lists them differently"

    # As under pipefail, but in sh: the status of the writer.
    for file in named redirected; do
        { { status=0; cat "$work/$file" || status=$?; echo "$status" >"$work/status"; } 2>/dev/null |
            "$postgres/$major/bin/pg_restore" -f - >/dev/null; } || changed "pg_restore fails on $file"
        echo "    cat $file | pg_restore: cat ends with $(cat "$work/status"), pg_restore with 0"
        [ "$file" = named ] || [ "$(cat "$work/status")" -ne 0 ] || changed "pg_restore reads to the end"
        [ "$file" = redirected ] || [ "$(cat "$work/status")" -eq 0 ] || changed "cat fails on both"
    done
    stop_server "s$major" "$major"
done
