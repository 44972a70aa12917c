#!/bin/sh
# A dump by a member of pg_read_all_data has the user mappings, but not their options.
#
# Guess:    pg_read_all_data is made for backups: such a dump is whole, or pg_dump complains.
# Seen:     the options of a user mapping (user name and password for a foreign server) are shown to its user,
#           the owner of the server and superusers alone. The view pg_user_mappings gives NULL to all others,
#           and pg_dump takes that for "no options": CREATE USER MAPPING without OPTIONS, nothing on standard
#           error, exit 0.
# Version:  pg_dump and server 16.14 and 18.4; also 15.18, 17.9 and 19rc1.
# Output:   superuser: CREATE USER MAPPING FOR app SERVER far OPTIONS (...); member: CREATE USER MAPPING FOR
#           app SERVER far; exit 0, 0 bytes on standard error
# Matters:  after a restore the foreign tables are all there, and the first query fails for want of a password.
#           A dump role without superuser rights must say so where there are foreign servers.
# Source:   own runs; the manual's page on pg_user_mappings says who sees the options.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres

# mapping USER: the statement in a dump by this user, which must succeed in silence.
mapping() {
    "$postgres/$major/bin/pg_dump" -h "$work/s$major" -U "$1" -f "$work/$1.sql" postgres 2>"$work/message" ||
        changed "pg_dump of $1 fails: $(cat "$work/message")"
    [ ! -s "$work/message" ] || changed "pg_dump of $1 complains: $(cat "$work/message")"
    # The statement may take several lines.
    awk '/^CREATE USER MAPPING/ { on = 1 } on { printf "%s ", $0 } on && /;$/ { exit }' "$work/$1.sql" | tr -s ' '
}

for major in $(postgres_majors 15); do
    start_server "s$major" "$major"
    sql "s$major" postgres -c "create foreign data wrapper any_wrapper" \
        -c "create server far foreign data wrapper any_wrapper" -c "create role app" \
        -c "create user mapping for app server far options (\"user\" 'app', password 'secret')" \
        -c "create role keeper login in role pg_read_all_data"
    echo "pg_dump $(version "$major"), exit 0 and nothing on standard error for both:"
    all=$(mapping postgres)
    some=$(mapping keeper)
    echo "    superuser: $all"
    echo "    member of pg_read_all_data: $some"
    case $all in *OPTIONS*password*) ;; *) changed "the superuser's dump has no options" ;; esac
    case $some in
    *OPTIONS*) changed "the member's dump has options" ;;
    "CREATE USER MAPPING FOR app"*) ;;
    *) changed "the member's dump has no mapping at all" ;;
    esac
    stop_server "s$major" "$major"
done
