"""Objects in a bucket of an S3 server: the few calls a store needs, each patient with a server that
is slow or away.

Address and secrets come from the environment alone, as boto3 reads it (AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.wording import span

SCHEME = "s3://"
NO_BUCKET = "no such bucket; create it, or choose another --store"
FIRST_PATIENCE = 20.0  # seconds for the first answer: an address that is wrong must be said soon
PATIENCE = 900.0  # seconds a running workflow waits for a server that does not answer
LONGEST_PAUSE = 5.0  # seconds between two tries
CHUNK = 1 << 20
WHOLE = 64 << 20  # bytes; larger files are uploaded in pieces
BUSY = {
    "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling",
    "ConditionalRequestConflict",
}


@dataclass(frozen=True)
class Entry:
    """One line of a listing."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Blob:
    """A small object: its bytes, its mark for `swap`, and how many seconds ago it was written,
    by the server's own clock.
    """

    data: bytes
    etag: str
    age: float


@dataclass(frozen=True)
class Objects:
    """The objects below `prefix` of a bucket; keys are relative to it.

    Picklable. Every method raises UserError when the server refuses, or has not answered for
    PATIENCE seconds.
    """

    bucket: str
    prefix: str = ""

    @staticmethod
    def at(url: str) -> Objects:
        """The objects below s3://bucket/prefix, which is taken as it is: `%20`, `?` and `#` are
        parts of keys.

        UserError when there is no such bucket, no permission, or no answer.
        """
        parts = re.fullmatch(r"s3://([A-Za-z0-9._-]+)(?:/(.*))?", url, re.DOTALL)
        if parts is None:
            raise UserError(f"{url}: expected s3://bucket/folder")
        found = Objects(parts[1], (parts[2] or "").strip("/"))
        found._ask(
            "access the bucket", lambda client: client.head_bucket(Bucket=found.bucket),
            FIRST_PATIENCE,
        )
        return found

    @property
    def url(self) -> str:
        """s3://bucket/prefix."""
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def address(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{key}"

    def read(self, key: str) -> Blob | None:
        """A small object, or None."""

        def get(client: Any) -> Blob:
            found = client.get_object(Bucket=self.bucket, Key=self._key(key))
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Blob(
                found["Body"].read(), found["ETag"],
                max(0.0, (now - found["LastModified"]).total_seconds()),
            )

        return self._or_none(f"read {key}", get)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, in place of one that is there."""
        self._ask(
            f"write {key}",
            lambda client: client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data),
        )

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none; False (and nothing changed) if there is another one.

        One conditional request.
        """
        return self._conditional(key, data, IfNoneMatch="*")

    def swap(self, key: str, data: bytes, etag: str) -> bool:
        """Write an object in place of the one with this mark; False (and nothing changed) if
        another one is there by now.
        """
        return self._conditional(key, data, IfMatch=etag)

    def upload(self, key: str, file: Path, sha256: str | None = None) -> None:
        """Make a file an object.

        The server compares what arrives with its sha256, or in pieces with their checksums.
        """
        if file.stat().st_size > WHOLE:
            self._ask(
                f"write {key}",
                lambda client: client.upload_file(
                    str(file), self.bucket, self._key(key), Config=_pieces()
                ),
            )
            return
        checksum = (
            {"ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()} if sha256 else {}
        )

        def put(client: Any) -> None:
            with file.open("rb") as body:
                client.put_object(Bucket=self.bucket, Key=self._key(key), Body=body, **checksum)

        self._ask(f"write {key}", put)

    def download(self, key: str, file: Path) -> str | None:
        """Write an object's bytes to a file and return their sha256; None when there is no such
        object.

        A connection that breaks goes on where it was.
        """
        hashed, done = hashlib.sha256(), 0

        def get(client: Any) -> str:
            nonlocal done
            rest = {"Range": f"bytes={done}-"} if done else {}
            body = client.get_object(Bucket=self.bucket, Key=self._key(key), **rest)["Body"]
            for chunk in body.iter_chunks(CHUNK):
                out.write(chunk)
                hashed.update(chunk)
                done += len(chunk)
            return hashed.hexdigest()

        with file.open("wb") as out:
            return self._or_none(f"read {key}", get)

    def entries(self, prefix: str = "", most: int | None = None) -> list[Entry]:
        """All objects whose keys start with `prefix` (at most `most` of them), in the order of
        their keys: a request a thousand.
        """
        found: list[Entry] = []
        start, cut = self._key(""), {"MaxKeys": most} if most else {}
        more: dict[str, str] = {}
        while True:
            page = self._ask(
                f"list {prefix}",
                functools.partial(self._page, {"Prefix": self._key(prefix), **more, **cut}),
            )
            found += [
                Entry(item["Key"][len(start) :], item["Size"], item["ETag"])
                for item in page.get("Contents", [])
            ]
            if not page.get("IsTruncated") or most:
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self) -> list[str]:
        """The first steps of all keys that have more than one, in order: a request a thousand of
        them.
        """
        found: list[str] = []
        start, more = self._key(""), dict[str, str]()
        while True:
            page = self._ask(
                "list folders",
                functools.partial(self._page, {"Prefix": start, "Delimiter": "/", **more}),
            )
            found += [
                item["Prefix"][len(start) :].rstrip("/") for item in page.get("CommonPrefixes", [])
            ]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there count as deleted."""
        for key in keys:
            self._ask(f"delete {key}", functools.partial(self._remove, key))

    def _page(self, arguments: dict[str, Any], client: Any) -> Any:
        return client.list_objects_v2(Bucket=self.bucket, **arguments)

    def _remove(self, key: str, client: Any) -> None:
        client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _conditional(self, key: str, data: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._ask(
                f"write {key}",
                lambda client: client.put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=data, **condition
                ),
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 412):
                raise
            # The first answer may have been lost and the write done: then what is there is ours,
            # which no other writer can make.
            there = self.read(key)
            return there is not None and there.data == data
        return True

    def _or_none(self, what: str, call: Callable[[Any], Any]) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._ask(what, call)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    def _ask(self, what: str, call: Callable[[Any], Any], patience: float = PATIENCE) -> Any:
        """Call, again and again while the server is in trouble.

        ClientError for 404 and 412, which the caller knows to read.
        """
        from botocore.exceptions import ClientError, NoCredentialsError

        deadline, pause = time.monotonic() + patience, 0.2
        while True:
            try:
                return call(_client(os.getpid()))
            except NoCredentialsError:
                fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                raise UserError(f"{self.url}: no credentials in the environment; {fix}") from None
            except ClientError as error:
                refusal = _refusal(error)
                if refusal is None and what != "access the bucket":
                    raise
                if refusal != "busy":
                    raise UserError(
                        f"{self.url}: cannot {what} ({refusal or NO_BUCKET})"
                    ) from None
                reason: Exception = error
            except Exception as error:
                if not _broken(error):
                    raise
                reason = error
            if time.monotonic() + pause > deadline:
                line = str(reason).splitlines()[0]
                fix = "check AWS_ENDPOINT_URL and the server; run the same command to resume"
                raise UserError(
                    f"{self.url}: no answer for {span(patience)} (cannot {what}: {line}); {fix}"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _refusal(error: Any) -> str | None:
    """Why the server refuses for good; `busy` when it may do it later; None when it has no such
    object, or another one.
    """
    status, said = (
        error.response["ResponseMetadata"]["HTTPStatusCode"],
        error.response.get("Error", {}),
    )
    if status in (404, 412):
        return NO_BUCKET if said.get("Code") == "NoSuchBucket" else None
    if status >= 500 or status == 429 or said.get("Code") in BUSY:
        return "busy"
    return f"{said.get('Code')}: {said.get('Message', '')}".strip(": ")


def _broken(error: Exception) -> bool:
    """Whether an exception tells of the way to the server, not of what was asked."""
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    if isinstance(error, S3UploadFailedError):
        return True
    of_botocore = (
        exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError,
    )
    return isinstance(error, (*of_botocore, HTTPError, ConnectionError, TimeoutError))


@functools.cache
def _pieces() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=WHOLE, multipart_chunksize=WHOLE, max_concurrency=4)


@functools.cache
def _client(_process: int) -> Any:
    """This process's client; safe for its threads, but not for a fork's child."""
    import boto3
    from botocore.config import Config

    # Servers of one's own are often reached by a number, where a bucket cannot be a part of the
    # name.
    own = any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=5, read_timeout=20, max_pool_connections=48,
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path" if own else "auto"},
            tcp_keepalive=True,
        ),
    )  # fmt: skip
