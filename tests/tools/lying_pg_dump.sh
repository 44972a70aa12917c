#!/bin/sh
# A pg_dump that does harm as it is told to. tests/it/harness/liar.rs copies it into a folder of
# programs, beside `real` (where the real programs are), `fault` (a line with a kind and numbers, read
# at each dump) and `words` (what is said on standard error).
#
# It leaves behind: `stopped` where it waits on purpose, until there is `release`, or the folder or its
# parent is gone.
set -u

here=$(dirname -- "$0")
read -r real <"$here/real"
case " $* " in
*" --version "* | *" -V "* | *" --help "* | *" -? "*) exec "$real/pg_dump" "$@" ;;
esac
read -r kind a b <"$here/fault"
: "${a:=0}" "${b:=0}"

stop_here() {
    : >"$here/stopped"
    while [ -d "$here" ] && [ ! -e "$here/release" ] && kill -0 "$PPID" 2>/dev/null; do
        sleep 0.02
    done
}

# Those that need no dump in a file.
case $kind in
none) exec "$real/pg_dump" "$@" ;;
silent) exit 0 ;;
says)
    "$real/pg_dump" "$@"
    code=$?
    cat "$here/words" >&2
    exit "$code"
    ;;
late) stop_here && exec "$real/pg_dump" "$@" ;;
esac

spool=$here/spool.$$
trap 'rm -f "$spool"' EXIT
if [ "$kind" = midway ]; then
    # The real program, connected, feels a slow reader after so many bytes.
    mkfifo "$spool"
    "$real/pg_dump" "$@" >"$spool" &
    dump=$!
    exec 3<"$spool"
    head -c "$a" <&3
    stop_here
    cat <&3
    wait "$dump"
    exit
fi

"$real/pg_dump" "$@" >"$spool" || exit
size=$(wc -c <"$spool")
# Numbers are a thousandth of the length each, so that whoever draws them needs not know it.
at=$((size * a / 1000))
case $kind in
cut) head -c "$at" "$spool" && exit "$b" ;;
kill)
    head -c "$at" "$spool"
    rm -f "$spool"
    kill -KILL $$
    ;;
fail) cat "$spool" && echo "pg_dump: error: it was all for nothing" >&2 && exit 1 ;;
append) cat "$spool" && head -c "$((a + 1))" "$spool" ;;
repeat) head -c "$((at + b + 1))" "$spool" && tail -c "+$((at + 1))" "$spool" ;;
drop) head -c "$at" "$spool" && tail -c "+$((at + b + 2))" "$spool" ;;
flip)
    # `a` is the position itself here; `b` is the bit.
    byte=$(od -An -tu1 -j "$a" -N 1 "$spool")
    head -c "$a" "$spool"
    # shellcheck disable=SC2059
    printf "\\$(printf '%03o' $((byte ^ (1 << b))))"
    tail -c "+$((a + 2))" "$spool"
    ;;
hang) head -c "$at" "$spool" && stop_here ;;
*) echo "lying pg_dump: no such kind: $kind" >&2 && exit 99 ;;
esac
