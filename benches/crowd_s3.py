"""An S3 server that holds a crowd of backups which were never made, for benches/crowd.sh.

crowd_s3.py PORT_FILE BACKUPS SERIES

Plain enough to list 300,000 objects quickly: one bucket, everything in memory, no signatures looked
at. What is written to it is kept like anywhere. The crowd appears with the request `POST /crowd`: each
backup is a copy of the newest one that was stored, in SERIES databases of its own, one for each hour.
"""

import bisect
import datetime
import hashlib
import http.server
import re
import sys
import threading
import urllib.parse
from xml.sax.saxutils import escape

port_file, wanted, DATABASES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
bodies, sizes, names = {}, {}, []
uploads = {}
lock = threading.Lock()
STAMP = "2026-11-21T02:15:00.000Z"


def put(key, body):
    with lock:
        if key not in bodies and key not in sizes:
            bisect.insort(names, key)
        bodies[key] = body


def crowd():
    """Copies of one real backup: the same server, other databases, one each hour."""
    real = max(key for key in bodies if key.endswith("/manifest.json"))
    prefix, server, system, database, contents, ident, _ = real.rsplit("/", 6)
    text = bodies[real].decode()
    made = []
    each = wanted // DATABASES
    start = datetime.datetime(2026, 11, 20, 2, 15)
    for number in range(DATABASES):
        name = f"crowd{number:03}"
        for age in range(each):
            at = start - datetime.timedelta(hours=age)
            other = f"{at:%Y%m%dT%H%M%SZ}-{number:08d}"
            folder = f"{prefix}/{server}/{system}/{name}/{contents}/{other}"
            manifest = f"{folder}/manifest.json"
            made += [(f"{folder}/{name}.dump.zst", None), (f"{folder}/index.json.zst", None), (manifest, (name, other))]
    data = [key for key in bodies if f"/{ident}/" in key and not key.endswith("manifest.json")]
    lengths = {key.rsplit("/", 1)[1].split(".", 1)[1]: len(bodies[key]) for key in data}

    def render(name, other):
        changed = text.replace(ident, other).replace(f'"{database}"', f'"{name}"')
        return changed.replace(f"{database}.dump.zst", f"{name}.dump.zst").encode()

    with lock:
        for key, what in made:
            if what:
                sizes[key] = (len(render(*what)), what)
            else:
                sizes[key] = (lengths[key.rsplit("/", 1)[1].split(".", 1)[1]], None)
        names[:] = sorted(set(names) | set(sizes))
    Handler.render = staticmethod(render)
    return len(made)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    render = None

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def asked(self):
        path, _, query = self.path.partition("?")
        parts = urllib.parse.unquote(path).lstrip("/").split("/", 1)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        return (parts[1] if len(parts) > 1 else ""), dict(urllib.parse.parse_qsl(query, keep_blank_values=True)), body

    def listing(self, query):
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        at = bisect.bisect_left(names, prefix)
        if after >= prefix:
            at = max(at, bisect.bisect_right(names, after))
        page = []
        while at < len(names) and names[at].startswith(prefix) and len(page) < 1000:
            page.append(names[at])
            at += 1
        more = at < len(names) and names[at].startswith(prefix)
        text = [f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"]
        if more:
            text.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        for key in page:
            size = len(bodies[key]) if key in bodies else sizes[key][0]
            text.append(
                f'<Contents><Key>{escape(key)}</Key><LastModified>{STAMP}</LastModified><ETag>"{"0" * 32}"</ETag>'
                f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        text.append("</ListBucketResult>")
        self.answer(200, "".join(text).encode())

    def body_of(self, key):
        if key in bodies:
            return bodies[key]
        if key in sizes and sizes[key][1]:
            return self.render(*sizes[key][1])
        return None

    def do_GET(self):
        key, query, _ = self.asked()
        if not key and "list-type" in query:
            return self.listing(query)
        if not key:
            return self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        if key not in bodies and key not in sizes:
            return self.answer(404, b"" if self.command == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        stamp = [("last-modified", "Sat, 21 Nov 2026 02:15:00 GMT")]
        body = self.body_of(key)
        if body is None:
            body = bytes(sizes[key][0])
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
            first, last = int(span[1]), min(int(span[2]), len(body) - 1)
            stamp.append(("content-range", f"bytes {first}-{last}/{len(body)}"))
            return self.answer(206, body[first : last + 1], stamp)
        return self.answer(200, body, stamp)

    do_HEAD = do_GET

    def do_PUT(self):
        key, query, body = self.asked()
        if "uploadId" in query:
            uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            put(key, body)
        self.answer(200, b"", [("etag", f'"{hashlib.md5(body).hexdigest()}"')])

    def do_POST(self):
        key, query, _ = self.asked()
        if self.path == "/crowd":
            return self.answer(200, f"{crowd()}\n".encode())
        if "uploads" in query:
            ident = f"u{len(uploads)}"
            uploads[ident] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{ident}</UploadId></InitiateMultipartUploadResult>"
            return self.answer(200, text.encode())
        parts = uploads.pop(query["uploadId"])
        put(key, b"".join(parts[number] for number in sorted(parts)))
        self.answer(200, b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')

    def do_DELETE(self):
        key, query, _ = self.asked()
        if "uploadId" in query:
            uploads.pop(query["uploadId"], None)
        else:
            with lock:
                if bodies.pop(key, None) is not None or sizes.pop(key, None) is not None:
                    names.pop(bisect.bisect_left(names, key))
        self.answer(204)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(port_file, "w") as file:
    file.write(f"{server.server_address[1]}\n")
server.serve_forever()
