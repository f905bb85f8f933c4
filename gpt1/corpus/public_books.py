"""Public-domain novels in public repositories on GitHub, fetched and checked file by file.

`public_books.json` names each repository, its commit and its license, and for each book the path,
the size, the sha256 and the name that it gets. A download is compared with its sha256 in memory and
gets its name last, so a file with a book's name is complete. What is there is not fetched again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from gpt1.corpus.discover import without_password
from gpt1.corpus.document import first_line
from gpt1.errors import UserError

SERVER = "https://raw.githubusercontent.com"
CONNECTIONS = 8
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try to reach a server."""
LONGEST_PAUSE = 300.0  # that a server may ask for
TIMEOUT = 30  # seconds without a byte


class PublicBook(NamedTuple):
    """`path`: OWNER/REPOSITORY/COMMIT/PATH on the server; `name`: AUTHOR/TITLE.txt in the folder;
    `size` in bytes.
    """

    path: str
    size: int
    sha256: str
    name: str


def list_books() -> list[PublicBook]:
    """All books, by their sha256: the first N are a fair sample."""
    text = resources.files("gpt1.corpus").joinpath("public_books.json").read_text(encoding="utf-8")
    books = [
        PublicBook(f"{found['name']}/{found['commit']}/{path}", *rest)
        for found in json.loads(text)["repositories"]
        for path, *rest in found["books"]
    ]
    return sorted(books, key=lambda book: book.sha256)


def fetch_books(
    books: Sequence[PublicBook], folder: Path, server: str,
    progress: Callable[[PublicBook], object], info: Callable[[str], object],
) -> dict[str, str]:
    """Fetch what the folder lacks. Returns the names of the books that are missing then, and why.

    `progress` hears of each book as it ends, `info` when the server asks to wait. UserError where
    the server cannot be reached; OSError of the disk.
    """
    if not server.startswith(("https://", "http://", "file:///")) or "@" in server.split("/")[2]:
        problem = "expected https://, http:// or file:///FOLDER, no password; change --mirror"
        raise UserError(f"{without_password(server)}: {problem}")
    missing = {}
    stop = threading.Event()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            running = {
                pool.submit(_fetch, book, folder, server.rstrip("/"), info, stop): book
                for book in books
            }
            for done in as_completed(running):
                if problem := done.result():
                    missing[running[done].name] = problem
                progress(running[done])
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return missing


def _fetch(
    book: PublicBook, folder: Path, server: str, info: Callable[[str], object],
    stop: threading.Event,
) -> str:
    """Have the book in the folder. Returns why it is missing, or ""."""
    target = folder / book.name
    if target.is_file() and sha256(target.read_bytes()).hexdigest() == book.sha256:
        return ""
    found = ""
    for _ in range(2):  # a proxy or a cache may have damaged the first
        data = _download(f"{server}/{quote(book.path)}", book.size, info, stop)
        if data is None:
            return f"the server has no {book.path}"
        found = sha256(data).hexdigest()
        if found == book.sha256:
            _write(target, data, book.sha256)
            return ""
    return f"{book.path} has the sha256 {found}; expected {book.sha256}"


def _download(
    url: str, size: int, info: Callable[[str], object], stop: threading.Event
) -> bytes | None:
    """The bytes, at most one more than `size`; None where there is no such file. Tries again what
    may pass: cut connections, and every status but 404 and 410.
    """
    problem = ""
    for pause in (*PAUSES, None):
        asked = None
        try:
            with urlopen(Request(url, headers={"User-Agent": "gpt1"}), timeout=TIMEOUT) as answer:
                data = bytes(answer.read(size + 1))
                announced = int(answer.headers.get("Content-Length") or 0)
            if len(data) >= min(announced, size + 1):
                return data
            problem = f"the connection was cut after {len(data)} of {announced} bytes"
        except HTTPError as error:
            if error.code in (404, 410):
                return None
            problem = f"HTTP status {error.code}"
            header = error.headers.get("Retry-After") or ""
            asked = min(float(header), LONGEST_PAUSE) if header.isdecimal() else None
        except URLError as error:
            if isinstance(error.reason, FileNotFoundError):
                return None
            problem = str(error.reason)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an odd header
            problem = first_line(error)
        if pause is None:
            break
        if asked:
            info(f"the server asks to wait {asked:.0f} s ({problem})")
        if stop.wait(asked or pause):
            break
    raise UserError(
        f"{url}: cannot be fetched ({problem}); check the network, use --mirror URL, or set"
        " ingest.source to your own books. The same command continues."
    )


def _write(target: Path, data: bytes, digest: str) -> None:
    """Complete or not at all, also after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that ingest does not read it; of one process, because two may fetch to a folder.
    partial = target.with_name(f".{digest[:16]}-{os.getpid()}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
