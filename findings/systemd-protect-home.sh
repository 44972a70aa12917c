#!/bin/sh
# ReadWritePaths= opens nothing below a home that ProtectHome=yes has closed.
#
# Guess:    ProtectHome=yes with ReadWritePaths=/home/backups works like ProtectSystem=strict with a path below
#           /var: all is closed, and this one folder is open.
# Seen:     ProtectHome=yes puts an empty folder without rights over /home. ReadWritePaths= and BindPaths= below it
#           are taken without an error or a line in the journal, and the folder does not exist in the service.
#           With ProtectHome=read-only ReadWritePaths= opens it; with ProtectHome=tmpfs BindPaths= does.
# Version:  systemd 252 (252.39-1~deb12u2) of Debian 12, booted in a container.
# Output:   see the table that it prints
# Matters:  large disks are often mounted below /home. A hardened unit of a backup service then finds no
#           repository, "No such file or directory", for a folder that plainly exists; and a service that
#           makes missing folders writes a new repository into a file system that is gone when it stops.
# Source:   own runs; systemd/systemd#7153.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"

in_debian_12 "$work/output" <<'SCRIPT'
systemctl --version | head -n 1
mkdir /home/backups
try() {
    label="$*"
    set --
    for property in $label; do set -- "$@" -p "$property"; done
    if systemd-run --quiet --wait --pipe "$@" touch /home/backups/new 2>/dev/null; then
        echo "written: $label"
    else
        echo "closed: $label"
    fi
}
try ProtectHome=no
try ProtectHome=yes
try ProtectHome=yes ReadWritePaths=/home/backups
try ProtectHome=yes BindPaths=/home/backups
try ProtectHome=read-only
try ProtectHome=read-only ReadWritePaths=/home/backups
try ProtectHome=tmpfs BindPaths=/home/backups
SCRIPT
cat "$work/output"
expect() { grep -qx "$1" "$work/output" || "${2:-changed}" "it is no longer so: $1"; }
expect "written: ProtectHome=no" broken
expect "closed: ProtectHome=yes"
expect "closed: ProtectHome=yes ReadWritePaths=/home/backups"
expect "closed: ProtectHome=yes BindPaths=/home/backups"
expect "closed: ProtectHome=read-only"
expect "written: ProtectHome=read-only ReadWritePaths=/home/backups"
expect "written: ProtectHome=tmpfs BindPaths=/home/backups"
