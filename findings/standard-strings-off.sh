#!/bin/sh
# A dump of a database with standard_conforming_strings = off changes on its way into PostgreSQL 19.
#
# Guess:    PostgreSQL 19 knows no such setting any more, refuses the dump's SET, and pg_restore stops there or
#           says what does not fit. Literals come back as they were, or not at all.
# Seen:     pg_dump 15 to 18 writes literals as the database's own setting has them: where it is off, each
#           backslash twice and without an E before the quote. pg_restore counts the one SET that 19 refuses
#           ("errors ignored on restore: 1") and goes on. Each such literal then has twice the backslashes: in
#           views, defaults and constraints, and, of a dump with --inserts, in the rows themselves. Nothing names
#           them. Into 18 the same dump is right. So is one that was made with PGOPTIONS='-c
#           standard_conforming_strings=on', or by the pg_dump of 19.
# Version:  pg_dump 16.14 and 18.4 into PostgreSQL 19rc1; also of 15.18 and 17.9.
# Output:   into 18: view a\b, rows a\b; into 19: pg_restore: warning: errors ignored on restore: 1, view a\\b,
#           rows a\\b (--inserts); with the option: view a\b, rows a\b
# Matters:  old applications keep the setting for a database or a role. Years of their backups restore into 19 with
#           other regular expressions, paths and rows than they were made of, behind a message that looks harmless.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
fetch_postgres_19

start_server s19 19 ""

# dump MAJOR OPTIONS...: of the database with the setting.
dump() {
    of=$1
    shift
    "$postgres/$of/bin/pg_dump" -h "$work/s$major" -U postgres -Fc "$@" -f "$work/old.dump" old
}

# restored SERVER MAJOR: the view's text, and the rows, after a restore with that version's pg_restore.
restored() {
    sql "$1" postgres -c "drop database if exists new" -c "create database new" 2>/dev/null
    "$postgres/$2/bin/pg_restore" -h "$work/$1" -U postgres -d new "$work/old.dump" 2>"$work/message" || true
    tail -n 1 "$work/message"
    printf 'view %s, rows %s\n' "$(sql "$1" new -c "select x from v")" "$(sql "$1" new -c "select a from t")"
}

for major in $(postgres_majors 15); do
    [ "$major" -lt 19 ] || continue
    start_server "s$major" "$major" ""
    sql "s$major" postgres -c "create database old" \
        -c "alter database old set standard_conforming_strings = off"
    sql "s$major" old -c "create table t (a text)" -c 'insert into t values (E'"'a\\\\b'"')' \
        -c 'create view v as select E'"'a\\\\b'"'::text as x'

    printf 'PostgreSQL %s, standard_conforming_strings = off: view %s\n' "$(version "$major")" \
        "$(sql "s$major" old -c "table v")"
    right='view a\b, rows a\b'
    dump "$major" --inserts
    if [ "$major" -eq 18 ]; then
        into_18=$(restored s18 18)
        printf '    into 18: %s\n' "$into_18"
        [ "$into_18" = "$right" ] || changed "18 takes it otherwise"
    fi
    into_19=$(restored s19 19)
    printf '    into 19, --inserts: %s\n' "$(printf %s "$into_19" | tr '\n' ' ')"
    [ "$into_19" = "pg_restore: warning: errors ignored on restore: 1
view a\\\\b, rows a\\\\b" ] || changed "19 takes a dump with --inserts otherwise"
    dump "$major"
    into_19=$(restored s19 19 | tail -n 1)
    printf '    into 19: %s\n' "$into_19"
    [ "$into_19" = 'view a\\b, rows a\b' ] || changed "19 takes it otherwise"
    PGOPTIONS='-c standard_conforming_strings=on' dump "$major" --inserts
    into_19=$(restored s19 19)
    printf '    into 19, of a session with the setting on: %s\n' "$into_19"
    [ "$into_19" = "$right" ] || changed "the option does not help"
    dump 19 --inserts
    into_19=$(restored s19 19)
    printf '    into 19, by pg_dump 19: %s\n' "$into_19"
    [ "$into_19" = "$right" ] || changed "pg_dump 19 does not help"
    stop_server "s$major" "$major"
done
