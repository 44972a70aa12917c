#!/bin/sh
# One post-quantum key in an identity file locks older age, and rage, out of all backups.
#
# Guess:    a file of identities is a key ring: a program tries those that it knows. And for the time of a
#           change one encrypts to the old and the new key at once.
# Seen:     age 1.1.1 and rage 0.12.1 refuse the whole identity file for the one line that they do not know, also
#           for a backup that the X25519 key beside it opens. And age 1.3 refuses to encrypt to a post-quantum
#           and an X25519 recipient together, so there is no time in which both keys open the new backups.
# Version:  age 1.3.2, rage 0.12.1 (Debian sid); age 1.1.1 (Debian 12).
# Output:   X25519 key alone: all three decrypt; both keys in a file: age 1.3.2 decrypts, age 1.1.1: unknown
#           identity type, rage: identity file contains non-identity data; both recipients: can't mix
# Matters:  the machine for the emergency has the age of its distribution. Keep one identity to a file, and
#           try the restore with the program that will be there.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
debian_root "$work/new" sid age=1.3.2-1 rage=0.12.1-2
debian_root "$work/old" bookworm age=1.1.1-1+b3

new_age() { in_root "$work/new" /usr/bin/age "$@"; }
rage() { in_root "$work/new" /usr/bin/rage "$@"; }
# It needs the C library alone, and takes that of this system.
old_age() { "$work/old/usr/bin/age" "$@"; }

in_root "$work/new" /usr/bin/age-keygen -o "$work/classic" 2>/dev/null
in_root "$work/new" /usr/bin/age-keygen -pq -o "$work/quantum" 2>/dev/null
cat "$work/classic" "$work/quantum" >"$work/both"
recipient() { in_root "$work/new" /usr/bin/age-keygen -y "$work/$1"; }
echo "the backup" | new_age -r "$(recipient classic)" -o "$work/backup.age"

# opens PROGRAM IDENTITIES: whether the backup can be read; else a line tells what was said.
opens() {
    if [ "$("$1" -d -i "$work/$2" "$work/backup.age" 2>"$work/message")" = "the backup" ]; then
        echo "    $1, $2: opens it"
    else
        echo "    $1, $2: $(grep -i -m 1 error "$work/message" | sed "s|$work/||g")"
        return 1
    fi
}
echo "a backup for the X25519 key; identity files with that key, and with a post-quantum key after it:"
for program in new_age old_age rage; do opens "$program" classic || broken "$program cannot read age files"; done
opens new_age both || changed "age 1.3.2 refuses the file with both"
! opens old_age both || changed "age 1.1.1 reads the file with both"
! opens rage both || changed "rage reads the file with both"

if echo x | new_age -r "$(recipient classic)" -r "$(recipient quantum)" -o "$work/mixed.age" 2>"$work/message"; then
    changed "age encrypts to both kinds of recipients"
fi
echo "to both recipients: $(head -n 1 "$work/message")"
grep -q "can't mix" "$work/message" || changed "another message"
