"""All files of a corpus, from folders, URLs and repositories of the hub: what each is by its name,
and how it is opened.

A file must be the one that was listed, before and after it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gpt1.corpus.document import (
    MIB,
    Place,
    SkippedFile,
    SourceFile,
    UnreadableFileError,
    first_line,
    printable,
)
from gpt1.corpus.hub import SCHEME, download, list_hub
from gpt1.errors import UserError
from gpt1.paths import FILE, is_url, path_of_uri

_CODECS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst"}
_TARS = {".tgz": "gz", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz", ".tzst": "zst"}
_KINDS = {
    ".txt": "text", ".text": "text", ".md": "text", ".epub": "epub", ".zip": "zip", ".tar": "tar",
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_NEVER_PACKED = {"epub", "zip", "parquet"}
LISTED = (
    ".txt, .md, .epub, .jsonl, .parquet, .zip or .tar; .txt, .md, .jsonl and .tar also with .gz,"
    " .bz2, .xz or .zst"
)
_CHECKSUMS = ("ETag", "etag", "sha256", "md5Hash", "content_md5", "md5", "crc32c", "checksum")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
_SKIPPED = "skipped:"
_FOUND = {
    "loop": "a link to a folder that was already read", "missing_shard": "there is no such file",
    "not_a_file": "it is a pipe, a device or a folder",
    "unreadable": "it cannot be read, or it is a broken link",
    "unreadable_folder": "it cannot be listed", "bad_name": "a name with unprintable characters",
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """`kind`: text, epub (one book each); zip, tar, parquet, jsonl (many).

    `codec`: what it is packed with. `suffix`: all of it.
    """

    kind: str
    codec: str | None
    suffix: str

    @property
    def holds_many(self) -> bool:
        """Whether it holds many books."""
        return self.kind not in ("text", "epub")


def format_of(name: str) -> Format | None:
    """The format of a file by its name, in capitals or not; None for what holds no books."""
    last = PurePosixPath(name).suffix
    if codec := _TARS.get(last.lower()):
        return Format("tar", codec, last)
    codec = _CODECS.get(last.lower())
    inner = PurePosixPath(name[: -len(last)]).suffix if codec else last
    kind = _KINDS.get(inner.lower())
    if kind is None or (codec and kind in _NEVER_PACKED):
        return None
    return Format(kind, codec, inner + last if codec else last)


def without_suffix(name: str) -> str:
    """The name without the suffix of its format; as it is when it has none."""
    found = format_of(name)
    return name[: -len(found.suffix)] if found else name


def is_hidden(name: str) -> bool:
    """Whether a file is no book by custom: a part of its path begins with a dot, or is
    macOS's `__MACOSX`.
    """
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX"
        for part in PurePosixPath(name).parts
    )


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    `files`: what can be read, and what should be but cannot (`skipped_when_listed`). `left_out`:
    names of files that are no books by their names; they are not part of the corpus.
    """

    files: list[SourceFile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def skipped_when_listed(file: SourceFile) -> SkippedFile | None:
    """The record of what cannot be read, as the listing found; None for what can."""
    if file.digest is None or not file.digest.startswith(_SKIPPED):
        return None
    rule = file.digest.removeprefix(_SKIPPED)
    return UnreadableFileError(rule, _FOUND[rule]).at(Place(file.name))


def list_sources(sources: Sequence[str]) -> Listing:
    """The files of all sources, ordered by name.

    With several sources the files' names begin with their source's name.

    UserError for a source that is not there, for one without any book, and for two of the same
    name.
    """
    found: dict[str, SourceFile] = {}
    left_out: list[str] = []
    for source in sources:
        listing = _list(source)
        prefix = "" if len(sources) == 1 else _prefix(source, listing)
        left_out += [prefix + name for name in listing.left_out]
        for file in listing.files:
            name = prefix + file.name
            if name in found:
                raise UserError(
                    f"source: {without_password(source)} and another source both have a file called"
                    f" {name}; expected different names. Rename one of them."
                )
            found[name] = replace(file, name=name)
    return Listing([found[name] for name in sorted(found)], left_out)


def _list(source: str) -> Listing:
    if source.startswith(SCHEME):
        listing = _by_name(list_hub(source))
    elif is_url(source) and not source.startswith(FILE):
        listing = _by_name(list_url(source, lambda name: format_of(name) is not None))
    else:
        path = path_of_uri(source) if source.startswith(FILE) else Path(source).expanduser()
        listing = _list_path(path)
    files = [file for file in listing.files if format_of(file.name) or file.digest]
    if not any(format_of(file.name) for file in files):
        names = ", ".join(listing.left_out[:3])
        raise UserError(
            f"{without_password(source)}: no books in it{f' (not books: {names})' if names else ''}"
            f"; expected {LISTED}. Check `source` of the ingest stage."
        )
    missing = [_skipped("missing_shard", name) for name in _missing_shards(f.name for f in files)]
    return Listing([*files, *missing], listing.left_out)


def _by_name(files: list[SourceFile]) -> Listing:
    """What is no book by its name, or is hidden, apart from the rest."""
    listing = Listing()
    for file in files:
        if skipped_when_listed(file):
            listing.files.append(file)
        elif is_hidden(file.name):
            continue
        elif format_of(file.name) is None:
            listing.left_out.append(printable(file.name))
        else:
            named = printable(file.name) == file.name
            listing.files.append(file if named else _skipped("bad_name", file.name))
    listing.left_out.sort()
    return listing


def _prefix(source: str, listing: Listing) -> str:
    """The last part of the source's own name; nothing for a source that is one file of that
    name.
    """
    name = PurePosixPath(source.rstrip("/")).name
    if source.startswith(SCHEME):
        name = name.partition("@")[0]
    return "" if [file.name for file in listing.files] == [name] else f"{name}/"


def _skipped(rule: str, name: str) -> SourceFile:
    return SourceFile(printable(name), "", f"{_SKIPPED}{rule}")


def _missing_shards(names: Iterable[str]) -> list[str]:
    """What `train-00000-of-00003.parquet` and its like speak of and is not there: a name, or the
    first and last of several in succession.
    """
    series: dict[tuple[str, str, int], set[int]] = {}
    for name in names:
        if found := re.fullmatch(r"(.*-)(\d{5})(-of-(\d{5}).*)", name):
            total = int(found[4])
            numbers = series.setdefault((found[1], found[3], total), {-1, total})
            numbers.add(min(int(found[2]), total))
    missing = []
    for (before, after, _), numbers in series.items():
        for low, high in pairwise(sorted(numbers)):
            if high - low > 1:
                ends = sorted({low + 1, high - 1})
                missing.append(" to ".join(f"{before}{end:05d}{after}" for end in ends))
    return sorted(missing)


def _list_path(path: Path) -> Listing:
    """A file, or a folder without what is hidden in it. Links to folders are followed after the
    real ones; one to a folder that is read already is skipped.
    """
    try:
        if path.is_dir():
            return _by_name(_Walk(path).files)
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"source: no such file or folder: {printable(str(path))} ({_cause(error)});"
            " expected a folder or file of books. Get public-domain books with `gpt1 data get"
            " books`, or set the path of your own, e.g. --set ingest.source=PATH."
        ) from error
    if printable(path.name) != path.name:
        return Listing([_skipped("bad_name", path.name)])
    return Listing([_regular_file(path, path.name)])


def _cause(error: OSError | ValueError) -> str:
    """What the system says of a path, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class _Walk:
    """All files of a folder, in the order in which they are found."""

    def __init__(self, top: Path) -> None:
        self.files: list[SourceFile] = []
        self._seen: set[tuple[int, int]] = set()
        links = self._walk(top, "")
        while links:
            name, path = links.pop(0)
            if self._inode(path) in self._seen:
                self.files.append(_skipped("loop", name))
            else:
                links += self._walk(path, f"{name}/")

    def _walk(self, top: Path, prefix: str) -> list[tuple[str, Path]]:
        """Take in a tree of real folders; the links to folders in it, ordered by name."""

        def name_of(path: Path | str) -> str:
            return prefix + Path(path).relative_to(top).as_posix()

        def skip_folder(error: OSError) -> None:
            self.files.append(_skipped("unreadable_folder", name_of(error.filename)))

        links = []
        for where, folders, names in os.walk(top, onerror=skip_folder):
            self._seen.add(self._inode(Path(where)))
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for path in map(Path(where).joinpath, folders):
                if path.is_symlink():
                    links.append((name_of(path), path))
            for path in map(Path(where).joinpath, names):
                self.files.append(_regular_file(path, name_of(path)))
        return sorted(links)

    @staticmethod
    def _inode(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_dev, status.st_ino


def _regular_file(path: Path, name: str) -> SourceFile:
    """The file, if it is one that can be opened."""
    if format_of(name) is None or printable(name) != name:
        return SourceFile(name, str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return _skipped("not_a_file", name)
        with path.open("rb"):
            return SourceFile(name, str(path))
    except OSError:
        return _skipped("unreadable", name)


# ---------------------------------------------------------------------------------------------
# Files and URLs, opened


@contextmanager
def open_source(file: SourceFile) -> Iterator[tuple[IO[bytes], int | None]]:
    """The file and its size in bytes (None where a server does not say).

    UserError when it cannot be read, or is, before or after, another than the listed one.
    """
    if is_url(file.location) and not file.location.startswith(SCHEME):
        with _open_url(file) as found:
            yield found
        return
    on_hub = file.location.startswith(SCHEME)
    path = download(file.location) if on_hub else Path(file.location)
    try:
        stream = path.open("rb")
        with stream:
            before = os.fstat(stream.fileno())
            _verify(stream, before.st_size, file)
            stream.seek(0)
            yield stream, before.st_size
            after = path.stat()
    except OSError as error:
        raise UserError(
            f"{file.name}: cannot be read ({error.strerror}); expected a readable file."
        ) from error
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size, after.st_mtime_ns, after.st_ino,
    ):
        raise _changed(file)


def _verify(stream: IO[bytes], size: int, file: SourceFile) -> None:
    """Digests are the hub's (`git:` and git's sha1 of a blob) or a plain sha256."""
    if file.digest is None:
        return
    git = file.digest.startswith("git:")
    found = (
        hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if git else hashlib.sha256()
    )
    while data := stream.read(MIB):
        found.update(data)
    if found.hexdigest() != file.digest.removeprefix("git:"):
        raise _changed(file)


@contextmanager
def _open_url(file: SourceFile) -> Iterator[tuple[IO[bytes], int | None]]:
    system, path = _file_system(file.location)
    info = _ask(file, system.info, path)
    if file.digest not in (None, _digest_of(info)):
        raise _changed(file)
    with _ask(file, system.open, path, "rb") as stream:
        yield stream, info.get("size")
    system.invalidate_cache()
    if _digest_of(_ask(file, system.info, path)) != _digest_of(info):
        raise _changed(file)


def _ask(file: SourceFile, method: Callable[..., Any], *arguments: str) -> Any:
    """What a file system's method gives. UserError where it fails."""
    try:
        return method(*arguments)
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{file.name}: cannot be read ({type(error).__name__}: {first_line(error)}); run the"
            " command again."
        ) from error


def _changed(file: SourceFile) -> UserError:
    return UserError(
        f"{file.name}: the file changed since it was listed; run the command again when nothing"
        " writes to it."
    )


def list_url(url: str, is_book: Callable[[str], bool]) -> list[SourceFile]:
    """The files below a URL, or the one file it names, by their names below it.

    UserError when it has none or cannot be listed.
    """
    system, top = _file_system(url)
    name = PurePosixPath(top).name
    try:
        if is_book(name) and system.isfile(top):
            return [SourceFile(name, url, _digest_of(system.info(top)))]
        # Not the listing's own details: those of some file systems differ from what is said of a
        # file by itself.
        found = {path: _digest_of(system.info(path)) for path in system.find(top)}
        if not found:  # says why: some searches pass over a refused connection
            system.ls(top)
    except Exception as error:  # every file system raises its own
        raise _unusable(url, error, "listed") from error
    if not found:
        raise UserError(
            f"{without_password(url)}: nothing found; expected a folder or file of books. Fix the"
            " URL."
        )
    return [
        SourceFile(path.removeprefix(top).strip("/") or name, system.unstrip_protocol(path), digest)
        for path, digest in sorted(found.items())
    ]


def without_password(url: str) -> str:
    """The URL without a user and a password, for messages."""
    return re.sub(r"://[^/@]*@", "://", url)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it. UserError when it cannot be opened."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except Exception as error:  # every file system raises its own
        raise _unusable(url, error, "opened") from error


def _unusable(url: str, error: Exception, done: str) -> UserError:
    scheme = url.partition("://")[0]
    advice = "Fix the URL or your access to it."
    if isinstance(error, ImportError) or "Protocol not known" in str(error):
        advice = f"Install the package for {scheme}://, or copy the files to a folder."
    return UserError(
        f"{without_password(url)}: {scheme}:// cannot be {done}"
        f" ({without_password(first_line(error))}); expected a folder or file of books. {advice}"
    )


def _digest_of(info: Mapping[str, Any]) -> str:
    """What a file system says of a file's content without reading it: a check sum, or size and
    time of change.
    """
    size = info.get("size")
    for key in (*_CHECKSUMS, *_TIMES):
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}:{size}"
    return f"size:{size}"
