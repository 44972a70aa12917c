#!/bin/sh
# A unit with Type=notify-reload starts on Debian 12, as another type.
#
# Guess:    a systemd that does not know a type refuses the unit.
# Seen:     notify-reload is new in systemd 253. 252 writes a warning to the journal, takes the unit as
#           Type=simple and starts it: "active" before the service is ready, or has so much as read its
#           configuration. Its READY=1 is not waited for, and `systemctl reload` fails, for without that type
#           nothing says how to reload.
# Version:  systemd 252 (252.39-1~deb12u2) of Debian 12, booted in a container.
# Output:   Type=notify: start waits and ends with 1 for a service that is never ready; Type=notify-reload: start
#           ends with 0, Type=simple, ActiveState=active, CanReload=no; reload fails
# Matters:  a backup service that cannot read its configuration ends some seconds later, and the package's
#           installation, or the tool that set it up, has seen a start that succeeded. Type=notify with
#           ExecReload= works on both.
# Source:   own runs; the manual of systemd.service says that the type is new in 253.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"

in_debian_12 "$work/output" <<'SCRIPT'
systemctl --version | head -n 1
for type in notify notify-reload; do
    # A service that is never ready: it says nothing to systemd, and gives up.
    printf '[Service]\nType=%s\nExecStart=/bin/sh -c "sleep 2; exit 3"\n' "$type" \
        >"/etc/systemd/system/a-$type.service"
    systemctl daemon-reload
    if systemctl start "a-$type" 2>/dev/null; then status=0; else status=$?; fi
    echo "$type: start ends with $status," $(systemctl show -p Type,ActiveState,CanReload "a-$type")
done
if systemctl reload a-notify-reload 2>/dev/null; then outcome=works; else outcome=fails; fi
echo "notify-reload: reload $outcome"
journalctl -b -o cat | grep -m 1 'Failed to parse service type' | sed 's/.*service:[0-9]*: //'
SCRIPT
cat "$work/output"
grep -q '^notify: start ends with 1,' "$work/output" || broken "Type=notify does not wait"
grep -q '^notify-reload: start ends with 0, Type=simple ActiveState=active CanReload=no$' "$work/output" ||
    changed "the unit is not taken as Type=simple"
grep -q '^notify-reload: reload fails$' "$work/output" || changed "it can be reloaded"
