"""Objects in a bucket of an S3 server; each call is patient with a server that is slow or away.

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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.format import span
from gpt1.train.checkpoint import CheckpointStorage, file_sha256
from pipeline.store import cache
from pipeline.store.objects import ListedObject

SCHEME = "s3://"
NO_BUCKET = "no such bucket; create it, or choose another --store"
FIRST_PATIENCE = 20.0  # seconds for the first answer: an address that is wrong must be said soon
PATIENCE = 900.0  # seconds a running workflow waits for a server that does not answer
LONGEST_PAUSE = 5.0  # seconds between two tries
CHUNK = 1 << 20
AT_ONCE = 16  # deletions under way at one time
WHOLE = 64 << 20  # bytes; larger files are uploaded in pieces
CUTS = "2468ace"
"""Where a long listing is divided: what follows the prefix is a fingerprint, most often."""
BUSY = {
    "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling",
    "ConditionalRequestConflict",
}


@dataclass(frozen=True)
class S3Objects:
    """The objects below `prefix` of a bucket; keys are relative to it.

    Every method raises UserError when the server refuses, or has not answered for PATIENCE seconds.
    """

    bucket: str
    prefix: str = ""
    shared = False

    @staticmethod
    def at(url: str) -> S3Objects:
        """The objects below s3://bucket/prefix, which is taken as it is: `%20`, `?` and `#` are
        parts of keys. One of the two slashes may be missing: a path object has made one of them.

        UserError when there is no such bucket, no permission, or no answer.
        """
        parts = re.fullmatch(r"s3:/+([A-Za-z0-9._-]+)(?:/(.*))?", url, re.DOTALL)
        if parts is None:
            raise UserError(f"{url}: expected s3://bucket/folder")
        found = S3Objects(parts[1], (parts[2] or "").strip("/"))
        cache.make_root(found.root)
        name, patience = found.bucket, FIRST_PATIENCE
        found._ask("access the bucket", lambda client: client.head_bucket(Bucket=name), patience)
        return found

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def root(self) -> Path:
        return cache.cache_root(self.url)

    @property
    def storage(self) -> CheckpointStorage:
        return S3Storage(self, self.root)

    def address(self, key: str) -> str:
        return f"{self.url}/{key}"

    def read(self, key: str) -> bytes | None:
        def get(client: Any) -> bytes:
            return bytes(client.get_object(**self._at(key))["Body"].read())

        return self._or_none(f"read {key}", get)

    def write(self, key: str, data: bytes) -> None:
        self._ask(f"write {key}", lambda client: client.put_object(**self._at(key), Body=data))

    def create(self, key: str, data: bytes) -> bool:
        """One conditional request."""
        from botocore.exceptions import ClientError

        try:
            new = {**self._at(key), "Body": data, "IfNoneMatch": "*"}
            self._ask(f"write {key}", lambda client: client.put_object(**new))
        except ClientError as error:
            if _status(error) not in (404, 412):
                raise
            # The first answer may have been lost and the write done: then what is there is ours,
            # which no other writer can make.
            return self.read(key) == data
        return True

    def upload(self, key: str, file: Path, sha256: str | None = None) -> None:
        """The server compares what arrives with its sha256, or in pieces with their checksums."""
        if file.stat().st_size > WHOLE:
            place = {**self._at(key), "Filename": str(file), "Config": _pieces()}
            self._ask(f"write {key}", lambda client: client.upload_file(**place))
            return
        expected = base64.b64encode(bytes.fromhex(sha256)).decode() if sha256 else ""
        checksum = {"ChecksumSHA256": expected} if expected else {}

        def put(client: Any) -> None:
            with file.open("rb") as body:
                client.put_object(**self._at(key), Body=body, **checksum)

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
            body = client.get_object(**self._at(key), **rest)["Body"]
            for chunk in body.iter_chunks(CHUNK):
                out.write(chunk)
                hashed.update(chunk)
                done += len(chunk)
            return hashed.hexdigest()

        with file.open("wb") as out:
            return self._or_none(f"read {key}", get)

    def obtain(self, key: str, sha256: str) -> str | None:
        target = self.root / key
        with suppress(OSError):
            if file_sha256(target) == sha256:
                return sha256
        with cache.fetching(self.root, target) as private:
            found = self.download(key, private)
            if found != sha256:
                private.unlink()
        return found

    def sha256(self, key: str) -> str | None:
        return self.download(key, Path(os.devnull))

    def entries(self, prefix: str) -> list[ListedObject]:
        """A request a thousand; after the first, several at a time."""
        found, last = self._some_entries(prefix, "")
        if last:
            cuts = [last, *(f"{prefix}{cut}" for cut in CUTS if f"{prefix}{cut}" > last)]
            with ThreadPoolExecutor(len(cuts)) as pool:
                further = functools.partial(self._entries_between, prefix)
                for entries in pool.map(further, cuts, [*cuts[1:], ""]):
                    found += entries
        return found

    def _entries_between(self, prefix: str, after: str, end: str) -> list[ListedObject]:
        """Those behind the key `after` and not behind the key `end`, which is empty for none."""
        found: list[ListedObject] = []
        while after and (not end or after < end):
            entries, after = self._some_entries(prefix, after)
            found += entries
        return [entry for entry in found if not end or entry.key <= end]

    def _some_entries(self, prefix: str, after: str) -> tuple[list[ListedObject], str]:
        """At most a thousand behind the key `after`; and the last key, if there are more."""
        asked = {"Prefix": self._key(prefix), **({"StartAfter": self._key(after)} if after else {})}
        page = self._ask(f"list {prefix}", functools.partial(self._page, asked))
        start = len(self._key(""))
        found = [
            ListedObject(item["Key"][start:], item["Size"], item["ETag"])
            for item in page.get("Contents", [])
        ]
        return found, found[-1].key if page["IsTruncated"] else ""

    def folders(self, prefix: str = "") -> list[str]:
        """A request a thousand of them."""
        found: list[str] = []
        start, more = self._key(prefix), dict[str, str]()
        while True:
            asked = {"Prefix": start, "Delimiter": "/", **more}
            page = self._ask("list folders", functools.partial(self._page, asked))
            prefixes = (item["Prefix"] for item in page.get("CommonPrefixes", []))
            found += [prefix[len(start) :].rstrip("/") for prefix in prefixes]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._ask(f"delete {key}", functools.partial(self._remove, key))

    def remove_folder(self, prefix: str) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda entry: self.remove([entry.key]), self.entries(prefix)))

    def unfinished(self, age: float) -> list[ListedObject]:  # noqa: ARG002
        return []  # an upload that is not finished is no object

    def _page(self, arguments: dict[str, Any], client: Any) -> Any:
        return client.list_objects_v2(Bucket=self.bucket, **arguments)

    def _remove(self, key: str, client: Any) -> None:
        client.delete_object(**self._at(key))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _or_none(self, what: str, call: Callable[[Any], Any]) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._ask(what, call)
        except ClientError as error:
            if _status(error) == 404:
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
                    why = refusal or NO_BUCKET
                    raise UserError(f"{self.url}: cannot {what} ({why})") from None
                reason: Exception = error
            except Exception as error:
                if not _broken(error):
                    raise
                reason = error
            if time.monotonic() + pause > deadline:
                line = str(reason).splitlines()[0]
                fix = "check AWS_ENDPOINT_URL and the server; run the same command to resume"
                why = f"no answer for {span(patience)} (cannot {what}: {line})"
                raise UserError(f"{self.url}: {why}; {fix}") from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True)
class S3Storage:
    """The storage of checkpoints in a bucket. A folder's path is one of this host, or of the host
    (with `root`) where this was made.
    """

    objects: S3Objects
    root: Path

    def list(self, folder: Path) -> Sequence[str]:
        prefix = f"{self._key(folder)}/"
        return [entry.key.removeprefix(prefix) for entry in self.objects.entries(prefix)]

    def upload(self, folder: Path, name: str, file: Path) -> None:
        self.objects.upload(f"{self._key(folder)}/{name}", file)

    def read(self, folder: Path, name: str) -> bytes | None:
        return self.objects.read(f"{self._key(folder)}/{name}")

    def download(self, folder: Path, name: str, file: Path) -> Path | None:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = self.objects.download(f"{self._key(folder)}/{name}", file)
        return None if found is None else file

    def delete(self, folder: Path, names: Sequence[str]) -> None:
        self.objects.remove(f"{self._key(folder)}/{name}" for name in names)

    def _key(self, folder: Path) -> str:
        root = self.root if folder.is_relative_to(self.root) else self.objects.root
        return folder.relative_to(root).as_posix()


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _refusal(error: Any) -> str | None:
    """Why the server refuses for good; `busy` when it may do it later; None when it has no such
    object, or another one.
    """
    status, said = _status(error), error.response.get("Error", {})
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

    of_botocore = (
        exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError,
    )
    of_python = (HTTPError, ConnectionError, TimeoutError)
    return isinstance(error, (S3UploadFailedError, *of_botocore, *of_python))


@functools.cache
def _pieces() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=WHOLE, multipart_chunksize=WHOLE, max_concurrency=4)


@functools.cache
def _client(_process: int) -> Any:
    """This process's client; safe for its threads, but not for a fork's child."""
    import boto3
    import botocore.session
    from botocore.config import Config

    # Servers of one's own are often reached by a number, where a bucket cannot be a part of the
    # name.
    own = any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    session = botocore.session.get_session()
    # Times stay as they come, as in AWS's own command line: of a listing botocore would parse one a
    # line, which takes longer than all else.
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=lambda when: when)
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        config=Config(
            connect_timeout=5, read_timeout=20, max_pool_connections=48,
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path" if own else "auto"},
            tcp_keepalive=True,
        ),
    )  # fmt: skip
