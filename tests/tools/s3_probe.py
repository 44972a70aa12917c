"""Asks an S3 server what it does where servers differ, and prints it as one JSON object.

s3_probe.py URL BUCKET ACCESS_KEY SECRET_KEY   (needs boto3; tests/it/s3/servers.rs runs it)

Everything is done below the prefix "probe/", and left there.
"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

url, bucket, access_key, secret_key = sys.argv[1:5]
s3 = boto3.client(
    "s3",
    endpoint_url=url,
    aws_access_key_id=access_key,
    aws_secret_access_key=secret_key,
    region_name="us-east-1",
    config=Config(
        s3={"addressing_style": "path"},
        retries={"max_attempts": 0},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    ),
)


def status(call, **arguments):
    """The HTTP status, and the code where it is an error."""
    try:
        answer = call(Bucket=bucket, **arguments)
        return str(answer["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        return f'{error.response["ResponseMetadata"]["HTTPStatusCode"]} {code}'.strip()


def part(key, **arguments):
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    said = status(
        s3.upload_part, Key=key, UploadId=upload, PartNumber=1, Body=b"part", **arguments
    )
    # Not every server still knows an upload whose part it refused.
    status(s3.abort_multipart_upload, Key=key, UploadId=upload)
    return said


def conditions():
    s3.put_object(Bucket=bucket, Key="probe/there", Body=b"first")
    put = status(s3.put_object, Key="probe/there", Body=b"second", IfNoneMatch="*")
    key = "probe/there"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    complete = status(
        s3.complete_multipart_upload,
        Key=key, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*",
    )
    return put, complete


def digests():
    md5, crc64 = "BwcHBwcHBwcHBwcHBwcHBw==", "AAAAAAAAAAc="
    return {
        "put_md5": status(s3.put_object, Key="probe/md5", Body=b"x", ContentMD5=md5),
        "put_crc64nvme": status(
            s3.put_object, Key="probe/crc", Body=b"x", ChecksumCRC64NVME=crc64
        ),
        "part_md5": part("probe/part-md5", ContentMD5=md5),
        "part_crc64nvme": part("probe/part-crc", ChecksumCRC64NVME=crc64),
    }


def lock():
    said = status(
        s3.put_object, Key="probe/locked", Body=b"x", ContentMD5="ndTkYSaMgDT1yFZOFVxnpg==",
        ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate="2036-01-01T00:00:00Z",
    )
    if said != "200":
        return said
    held = status(s3.get_object_retention, Key="probe/locked")
    return "kept" if held == "200" else "200, ignored"


def listing():
    names = ["a b", "a+c", "a.d", "a=e", "aa", "é", "ab/c"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=f"probe/list/{name}", Body=b"x")
    page = s3.list_objects_v2(Bucket=bucket, Prefix="probe/list/")
    keys = [it["Key"].removeprefix("probe/list/") for it in page.get("Contents", [])]
    order = "bytes" if keys == sorted(keys, key=lambda it: it.encode()) else f"other: {keys}"
    # boto3 asks for encoded keys, and decodes them.
    changed = [key for key in keys if key not in names]
    two = s3.list_objects_v2(Bucket=bucket, Prefix="probe/list/", MaxKeys=2)
    none = s3.list_objects_v2(Bucket=bucket, Prefix="probe/list/", MaxKeys=0)
    after = s3.list_objects_v2(Bucket=bucket, Prefix="probe/list/", StartAfter="probe/list/a=e")
    return {
        "order": order,
        "names": f"changed: {changed}" if changed else "kept",
        "max_keys_2": str(len(two.get("Contents", []))),
        "max_keys_0": str(len(none.get("Contents", []))),
        "start_after": str(len(after.get("Contents", []))),
        "list_uploads": status(s3.list_multipart_uploads),
    }


def ranges():
    s3.put_object(Bucket=bucket, Key="probe/ten", Body=b"0123456789")
    return {
        "range": status(s3.get_object, Key="probe/ten", Range="bytes=2-5"),
        "range_beyond": status(s3.get_object, Key="probe/ten", Range="bytes=2-99"),
        "range_behind": status(s3.get_object, Key="probe/ten", Range="bytes=10-12"),
    }


def twice():
    key = "probe/twice"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    arguments = {"Key": key, "UploadId": upload, "MultipartUpload": parts}
    status(s3.complete_multipart_upload, **arguments)
    return status(s3.complete_multipart_upload, **arguments)


put, complete = conditions()
found = {"put_if_none_match": put, "complete_if_none_match": complete, "lock": lock(), "complete_twice": twice()}
for group in (digests(), listing(), ranges()):
    found.update(group)
print(json.dumps(found, indent=2, ensure_ascii=False))
