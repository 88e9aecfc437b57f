"""A server of objects on the loopback address: files by ranges over plain HTTP, and as S3 lists and gives them.

with object_server(folder) as server:
    Checkpoint(f"{server.http}/rlvr")
    server.sent  # path to the bytes of each answer
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Objects:
    """A running server.

    Attributes:
        http: Its address.
        sent: Path to the bytes of each answer, in order.
    """

    http: str
    sent: dict[str, list[int]] = field(default_factory=dict)


@contextmanager
def object_server(root: Path) -> Iterator[Objects]:
    """Serve a folder while the block lasts; over S3 its folders are buckets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked = urlsplit(self.path)
            path, query = root / unquote(asked.path).strip("/"), parse_qs(asked.query)
            if "list-type" in query:
                self.answer(200, listing(path, query).encode(), {"Content-Type": "application/xml"})
            elif path.is_dir() and self.command == "GET":
                names = "".join(f'<a href="{each.name}">{each.name}</a>' for each in sorted(path.iterdir()))
                self.answer(200, names.encode(), {"Content-Type": "text/html"})
            elif path.is_file():
                self.give(path)
            else:
                self.answer(404, b"", {})

        def give(self, path: Path):
            data, more = path.read_bytes(), {"ETag": f'"{path.stat().st_mtime_ns}"', "Accept-Ranges": "bytes"}
            span = self.headers.get("Range")
            if span is None:
                self.answer(200, data, more)
                return
            first, last = (int(end) if end else len(data) - 1 for end in span.removeprefix("bytes=").split("-"))
            part = data[first : last + 1]
            self.answer(206, part, {**more, "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

        def answer(self, code: int, body: bytes, headers: dict[str, str]):
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
                served.sent.setdefault(urlsplit(self.path).path.strip("/"), []).append(len(body))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Objects(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def listing(bucket: Path, query: dict[str, list[str]]) -> str:
    """Return what ListObjectsV2 says of a bucket's objects under a prefix."""
    prefix = query.get("prefix", [""])[0]
    found = [path for path in sorted(bucket.rglob("*")) if path.is_file()]
    rows = [
        f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size><ETag>{path.stat().st_mtime_ns}</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        for path in found
        if (key := str(path.relative_to(bucket))).startswith(prefix) and "/" not in key[len(prefix) :]
    ]
    return (
        f'<?xml version="1.0"?><ListBucketResult><Name>{bucket.name}</Name><Prefix>{escape(prefix)}</Prefix>'
        f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(rows)}"
        "</ListBucketResult>"
    )
