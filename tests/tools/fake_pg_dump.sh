#!/bin/sh
# A pg_dump that misbehaves. tests/it/harness/fakes.rs copies it into a folder of programs, beside
# two files: `kind` says how to misbehave, `real` where the real programs are.
#
# It leaves behind: a line in `starts` for each dump that was asked for, and `stopped` where it
# waits on purpose (until there is `release`, or the folder or its
# parent is gone).
set -u

here=$(dirname -- "$0")
read -r kind <"$here/kind"
read -r real <"$here/real"

if [ "$kind" = too-old ]; then
    case " $* " in
    *" --version "* | *" -V "*) echo "pg_dump (PostgreSQL) 9.6.24" && exit 0 ;;
    esac
    echo "pg_dump: error: server version: 15.0; pg_dump version: 9.6.24" >&2
    echo "pg_dump: error: aborting because of server version mismatch" >&2
    exit 1
fi
case " $* " in
*" --version "* | *" -V "* | *" --help "* | *" -? "*) exec "$real/pg_dump" "$@" ;;
# How a database is made is no dump of it.
*" --file="*) exec "$real/pg_dump" "$@" ;;
esac

echo "$$" >>"$here/starts"

# The whole dump in a file first, for those that need its length.
spool=$here/spool.$$
trap 'rm -f "$spool" "$spool.failed"' EXIT
# Through a pipe, as pgkeep reads it: where its standard output is a file, pg_dump 19 (rc1) leaves its table
# of contents there twice.
first_half() {
    { "$real/pg_dump" "$@" || : >"$spool.failed"; } | cat >"$spool"
    [ ! -e "$spool.failed" ] || exit 1
    head -c "$(($(wc -c <"$spool") / 2))" "$spool"
}
second_half() {
    tail -c "+$(($(wc -c <"$spool") / 2 + 1))" "$spool"
}
stop_here() {
    : >"$here/stopped"
    while [ -d "$here" ] && [ ! -e "$here/release" ] && kill -0 "$PPID" 2>/dev/null; do
        sleep 0.05
    done
}

case $kind in
silent) exit 0 ;;
truncated) first_half "$@" && exit 0 ;;
fails-after-all) "$real/pg_dump" "$@" && echo "pg_dump: error: it was all for nothing" >&2 && exit 1 ;;
fails-at-once) echo "pg_dump: error: connection to server failed: FATAL:  no luck" >&2 && exit 1 ;;
fails-once)
    if [ "$(wc -l <"$here/starts")" -gt 1 ]; then
        exec "$real/pg_dump" "$@"
    fi
    echo "pg_dump: error: connection to server failed: FATAL:  the database system is starting up" >&2
    exit 1
    ;;
killed)
    first_half "$@"
    rm -f "$spool"
    kill -KILL $$
    ;;
gated) first_half "$@" && stop_here && second_half ;;
midway)
    # The real program is held in the middle by what it feels as a slow reader.
    mkfifo "$spool"
    "$real/pg_dump" "$@" >"$spool" &
    dump=$!
    exec 3<"$spool"
    head -c 65536 <&3
    stop_here
    cat <&3
    wait "$dump"
    exit
    ;;
late) stop_here && exec "$real/pg_dump" "$@" ;;
deaf)
    trap '' TERM INT
    first_half "$@" && stop_here && second_half
    ;;
floods-stderr)
    "$real/pg_dump" "$@"
    code=$?
    # 20 MB, with bytes that are no UTF-8 and a line without an end.
    yes "pg_dump: warning: $(printf 'there is \377 no end to this, there is no end to this, no end')" |
        head -c 20000000 >&2
    exit "$code"
    ;;
*) echo "fake pg_dump: no such kind: $kind" >&2 && exit 99 ;;
esac
