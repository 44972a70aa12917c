#!/bin/sh
# The role memberships of a globals dump are lost where initdb named its superuser otherwise.
#
# Guess:    `pg_dumpall --globals-only` restores into any new cluster of the same version.
# Seen:     from 16 on each membership is dumped as GRANT group TO member GRANTED BY grantor, and the grantor is
#           mostly the superuser that initdb made. In a cluster that initdb made for "admin" the dump
#           creates "postgres" as a superuser, but not as the one from initdb, and that one alone may be
#           a grantor without an ADMIN option: all these grants fail. psql goes on and ends with 0.
# Version:  pg_dumpall 16.14 and 18.4; also 17.9 and 19rc1. 15 says GRANTED BY too, and the grant succeeds.
# Output:   GRANT staff TO ann WITH INHERIT TRUE GRANTED BY postgres: permission denied to grant privileges as
#           role "postgres"; members: 1 before, 0 after, psql ends with 0
# Matters:  clouds and images name their superuser as they like. After such a restore every role is
#           there, logs in, and has none of its groups' rights. Restore globals with ON_ERROR_STOP, and into a
#           cluster whose superuser has the same name (initdb --username).
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

members="select count(*) from pg_auth_members where roleid = 'staff'::regrole"

for major in $(postgres_majors 15); do
    start_server "old$major" "$major"
    sql "old$major" postgres -c "create role staff" -c "create role ann login" -c "grant staff to ann"
    "$postgres/$major/bin/pg_dumpall" -h "$work/old$major" -U postgres --globals-only >"$work/globals$major"
    stop_server "old$major" "$major"

    superuser='admin'
    start_server "new$major" "$major"
    # Without ON_ERROR_STOP, as `psql -f` is mostly run.
    "$psql" -X -q -h "$work/new$major" -U admin -d postgres -f "$work/globals$major" >/dev/null 2>"$work/message" ||
        changed "psql ends with an error"
    found=$(sql "new$major" postgres -c "$members")
    unset superuser
    stop_server "new$major" "$major"

    echo "pg_dumpall $(version "$major"): $(grep '^GRANT staff' "$work/globals$major")"
    echo "    in a cluster of admin: members of staff $found, psql ends with 0"
    if [ "$major" -eq 15 ]; then
        [ "$found" -eq 1 ] || changed "15 loses the membership, too"
        continue
    fi
    grep 'permission denied' "$work/message" | sed 's/^[^ ]* */    /'
    [ "$found" -eq 0 ] || changed "the membership is restored"
    grep -q 'permission denied to grant privileges as role "postgres"' "$work/message" ||
        changed "another error: $(cat "$work/message")"
done
