#!/bin/sh
# barman-cloud-wal-archive replaces a segment by another one of the same name, and says nothing.
#
# Guess:    an archive refuses a second, different segment under a name that it has, as the manual of
#           PostgreSQL asks of an archive_command.
# Seen:     the upload looks for nothing first. The second segment takes the place of the first: exit 0, no output.
#           With another compression both lie side by side, as NAME and NAME.gz.
# Version:  barman 3.19.1 (barman-cloud), boto3 1.44.8, moto 5.2.5 as the server.
# Output:   first: exit 0; other content: exit 0, stored is now the other; --gzip: exit 0, two objects
# Matters:  a copy of a server that still has its archive_command, and its timeline (a clone of the volume, say),
#           overwrites the WAL of the real one, segment by segment, and PostgreSQL's archiver shows no failure.
#           Only a restore finds out. (barman-cloud-check-wal-archive is a command of its own.)
# Source:   own runs; the manual's chapter on continuous archiving asks for the refusal.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
pip_install "$work/venv" 'moto[server]==5.2.5' boto3==1.44.8 psycopg2-binary==2.9.11 python-dateutil==2.9.0.post0
# Barman asks for psycopg2, which is not built in advance; psycopg2-binary is the same module.
"$work/venv/bin/pip" -q --disable-pip-version-check install --no-deps barman==3.19.1 >&2 ||
    skip "Barman is not to be had"

cat >"$work/server.py" <<'PYTHON'
import os, sys, threading
import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://%s:%s" % server.get_host_and_port()
boto3.client("s3", endpoint_url=url).create_bucket(Bucket="backups")
with open(sys.argv[1] + ".new", "w") as file:
    file.write(url)
os.rename(sys.argv[1] + ".new", sys.argv[1])
threading.Event().wait()
PYTHON
cat >"$work/list.py" <<'PYTHON'
import sys
import boto3

s3 = boto3.client("s3", endpoint_url=sys.argv[1])
for entry in s3.list_objects_v2(Bucket="backups")["Contents"]:
    first = s3.get_object(Bucket="backups", Key=entry["Key"])["Body"].read(1)
    print(entry["Key"].rsplit("/", 1)[1], entry["Size"], "bytes, first byte", first)
PYTHON
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1 \
    AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null NO_PROXY=127.0.0.1

"$work/venv/bin/python" "$work/server.py" "$work/url" >/dev/null 2>&1 &
helpers=$!
wait_for 60 test -e "$work/url" || broken "moto does not start"
url=$(cat "$work/url")
segment=000000010000000000000001

# archive LETTER [OPTION]: a segment of 16 MiB of this letter.
archive() {
    letter=$1
    shift
    head -c 16777216 /dev/zero | tr '\0' "$letter" >"$work/$segment"
    "$work/venv/bin/barman-cloud-wal-archive" --endpoint-url "$url" "$@" s3://backups/wal main "$work/$segment" \
        >"$work/message" 2>&1 || changed "it refuses: $(cat "$work/message")"
    [ ! -s "$work/message" ] || changed "it says: $(cat "$work/message")"
    echo "segment of $letter $*: exit 0, no output; stored:"
    "$work/venv/bin/python" "$work/list.py" "$url" | tee "$work/stored" | sed 's/^/    /'
}

archive A
archive B
[ "$(cat "$work/stored")" = "$segment 16777216 bytes, first byte b'B'" ] || changed "the first segment is still there"
archive C --gzip
[ "$(wc -l <"$work/stored")" -eq 2 ] || changed "there are not two objects"
