"""Files behind a URL that fsspec knows: s3://, gs://, http://, memory:// and the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gpt1.corpus.readers.forms import form_of
from gpt1.corpus.readers.listed import Listed
from gpt1.errors import UserError

_CHECKSUMS = ("ETag", "etag", "sha256", "md5Hash", "content_md5", "md5", "crc32c", "checksum")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


def shown(url: str) -> str:
    """The URL without a user and a password, for messages."""
    return re.sub(r"://[^/@]*@", "://", url)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it. UserError when it cannot be opened."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        raise UserError(
            f"{shown(url)}: {scheme}:// cannot be opened ({_first_line(error)}); expected a scheme"
            " whose package is installed. Install it, or copy the files to a folder."
        ) from error
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{shown(url)}: cannot be opened ({_first_line(error)}); fix the URL or your access to"
            " it."
        ) from error


def list_url(url: str) -> list[Listed]:
    """The files below a URL, or the one file it names, by their names below it.

    UserError when it has none or cannot be listed.
    """
    system, top = file_system(url)
    name = PurePosixPath(top).name
    try:
        if form_of(name) is not None and system.isfile(top):
            return [Listed(name, url, mark(system.info(top)))]
        # Not the listing's own details: those of some file systems differ from what is said of a
        # file by itself.
        found = {path: mark(system.info(path)) for path in system.find(top)}
        if not found:
            system.ls(
                top
            )  # says why nothing was found: some searches pass over a refused connection
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{shown(url)}: cannot be listed ({_first_line(error)}); fix the URL or your access to"
            " it."
        ) from error
    if not found:
        raise UserError(
            f"{shown(url)}: nothing found; expected a folder or file of books. Fix the URL."
        )
    listed = []
    for path, digest in sorted(found.items()):
        inside = path.removeprefix(top).strip("/") or name
        listed.append(Listed(inside, system.unstrip_protocol(path), digest))
    return listed


def mark(info: Mapping[str, Any]) -> str:
    """What a file system says of a file's content without reading it: a check sum, or size and
    time of change.
    """
    size = info.get("size")
    for key in _CHECKSUMS:
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}:{size}"
    for key in _TIMES:
        if info.get(key):
            return f"{key.lower()}:{info[key]}:{size}"
    return f"size:{size}"


def _first_line(error: Exception) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])
