"""A small S3 server over what a folder holds, for measuring: it answers after a delay of its own.

    python -m benchmarks.s3_server FOLDER [--delay 0.005]      prints its port

One bucket of any name, in memory: the folder's files are its objects when it starts. GET, HEAD, PUT
(`If-None-Match: *` and checked bodies), DELETE, and ListObjectsV2 with `prefix`, `delimiter` and
`continuation-token`, at most 1,000 keys a page. `GET /_counts` gives the requests of each kind
since the last one. The servers for tests sort all keys for every page; this one lists from a sorted
list, so that a time is the client's and the delay's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
WHEN = "2026-01-01T00:00:00.000Z"
LAST = chr(0x10FFFF)


@dataclass(frozen=True)
class Stored:
    """An object: its bytes, its ETag, and its lines in a listing."""

    data: bytes
    etag: str
    listed: str

    @staticmethod
    def of(key: str, data: bytes) -> Stored:
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        listed = (
            f"<Contents><Key>{escape(quote(key))}</Key><LastModified>{WHEN}</LastModified>"
            f"<ETag>{escape(etag)}</ETag><Size>{len(data)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
        return Stored(data, etag, listed)


class Bucket:
    """Objects by key, in order."""

    def __init__(self, folder: Path) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        keys = {path.relative_to(folder).as_posix(): path for path in files}
        self.objects = {key: Stored.of(key, path.read_bytes()) for key, path in keys.items()}
        self.keys = sorted(self.objects)
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def put(self, key: str, data: bytes, if_none: bool) -> Stored | None:
        """None where there is one, and it was asked for none."""
        with self.lock:
            if if_none and key in self.objects:
                return None
            if key not in self.objects:
                insort(self.keys, key)
            self.objects[key] = Stored.of(key, data)
            return self.objects[key]

    def delete(self, key: str) -> None:
        with self.lock:
            if self.objects.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]

    def page(self, prefix: str, delimiter: str, after: str) -> str:
        """A page of a listing, as XML; `after`: the last key, or the last common prefix."""
        with self.lock:
            at = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after))
            lines: list[str] = []
            last = ""
            while at < len(self.keys) and self.keys[at].startswith(prefix) and len(lines) < PAGE:
                last = self.keys[at]
                head, found, _ = last[len(prefix) :].partition(delimiter or LAST)
                if found:
                    common = prefix + head + delimiter
                    last = common + LAST
                    lines.append(
                        f"<CommonPrefixes><Prefix>{escape(quote(common))}</Prefix></CommonPrefixes>"
                    )
                    at = bisect_right(self.keys, last)
                else:
                    lines.append(self.objects[last].listed)
                    at += 1
            more = at < len(self.keys) and self.keys[at].startswith(prefix)
        token = (
            f"<NextContinuationToken>{quote(last)}</NextContinuationToken>" if more else ""
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult'
            ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
            f"<Prefix>{escape(quote(prefix))}</Prefix><KeyCount>{len(lines)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{''.join(lines)}</ListBucketResult>"
        )


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    bucket: ClassVar[Bucket]
    delay: ClassVar[float]

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        key, query = self._asked()
        if self.path == "/_counts":
            counts, self.bucket.counts = self.bucket.counts, Counter()
            self._answer(200, json.dumps(counts).encode(), {})
        elif not key:
            self._begin("list")
            after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
            found = self.bucket.page(query.get("prefix", ""), query.get("delimiter", ""), after)
            self._answer(200, found.encode(), {"Content-Type": "application/xml"})
        else:
            self._begin("get")
            self._object(key, True)

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        self._begin("head")
        if key:
            self._object(key, False)
        else:
            self._answer(200, b"", {})

    def do_PUT(self) -> None:
        key, _ = self._asked()
        self._begin("put")
        stored = self.bucket.put(key, self._body(), self.headers.get("If-None-Match") == "*")
        if stored is None:
            self._answer(412, _error("PreconditionFailed"), {})
        else:
            self._answer(200, b"", {"ETag": stored.etag})

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        self._begin("delete")
        self.bucket.delete(key)
        self._answer(204, b"", {})

    def _asked(self) -> tuple[str, dict[str, str]]:
        """The key, which is empty for the bucket itself, and the query."""
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        return key, dict(parse_qsl(parts.query, keep_blank_values=True))

    def _begin(self, kind: str) -> None:
        time.sleep(self.delay)
        with self.bucket.lock:
            self.bucket.counts[kind] += 1

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:  # SIZE;signature CRLF BYTES CRLF, the last one empty
            size, _, data = data.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                break
            whole, data = whole + data[:length], data[length + 2 :]
        return whole

    def _object(self, key: str, body: bool) -> None:
        found = self.bucket.objects.get(key)
        if found is None:
            self._answer(404, _error("NoSuchKey") if body else b"", {})
            return
        about = {"ETag": found.etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        data, status = found.data, 200
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        if body:
            self._answer(status, data, about)
        else:
            self._answer(status, b"", {**about, "Content-Length": str(len(found.data))})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every answer")
    given = parser.parse_args()
    Handler.bucket, Handler.delay = Bucket(given.folder), given.delay
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
