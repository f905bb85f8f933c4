"""Files that are complete or absent, also after a power cut; JSON that carries its own sha256."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpt1.train.checkpoint import PRIVATE, sync

_SIGNATURE = b',\n "sha256": "'


def create_file(path: Path, data: bytes) -> bool:
    """Create a file if there is none; False, and nothing changed, if there is one. Atomic also
    between machines that share the folder.
    """
    with _private(path, data) as private:
        try:
            os.link(private, path)
        except FileExistsError:
            return private.stat().st_nlink == 2  # on NFS the first answer may have been lost
    sync(path.parent)
    return True


def replace_file(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file; one that is there is replaced at once. `durable`: also after a power cut."""
    with _private(path, data, durable) as private:
        private.replace(path)
    if durable:
        sync(path.parent)


def to_json(data: Any) -> bytes:
    """For people to read, too."""
    return (json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def parse_json(data: bytes | None) -> Any | None:
    """What bytes say in JSON; None when they are missing or damaged."""
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None


def sign(json_object: bytes) -> bytes:
    """A JSON object (not an empty one) with a last key `sha256`, that of all bytes before it."""
    body = json_object.rstrip().removesuffix(b"}").rstrip()
    return body + _SIGNATURE + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def unsign(data: bytes) -> bytes | None:
    """The JSON object without that key; None when a byte is another one than was signed."""
    body = data.rpartition(_SIGNATURE)[0]
    return body + b"\n}" if body and sign(body + b"}") == data else None


def read_signed(data: bytes) -> dict[str, Any] | None:
    """The values of a signed JSON object; None when it is damaged."""
    body = unsign(data)
    return None if body is None else dict(json.loads(body))


@contextmanager
def _private(path: Path, data: bytes, durable: bool = True) -> Iterator[Path]:
    """A file beside `path` that holds the data; it is gone in the end."""
    private = path.with_name(f"{PRIVATE}{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with private.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        yield private
    except OSError as error:  # of a full disk Python does not say where
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # a disk that is read only said so above
            private.unlink()
