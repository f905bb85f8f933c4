"""All files of a corpus, from one source or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gpt1.corpus.folder import list_path
from gpt1.corpus.readers.forms import LISTED, form_of, hidden
from gpt1.corpus.readers.hub import SCHEME, list_hub
from gpt1.corpus.readers.listed import Listed, Listing, missing_shards, refused_listed
from gpt1.corpus.readers.remote import list_url, shown
from gpt1.errors import UserError
from gpt1.paths import FILE, is_url, path_of_uri


def list_sources(sources: Sequence[str]) -> Listing:
    """The files of all sources, ordered by name.

    With several sources each one's own name stands in front of its files' names.

    UserError for a source that is not there, for one without any book, and for two of the same
    name.
    """
    found: dict[str, Listed] = {}
    left_out: list[str] = []
    for source in sources:
        listing = _one(source)
        prefix = "" if len(sources) == 1 else _prefix(source, listing)
        left_out += [prefix + name for name in listing.left_out]
        for file in listing.files:
            name = prefix + file.name
            if name in found:
                raise UserError(
                    f"source: {shown(source)} and another source both have a file called {name};"
                    " expected different names. Rename one of them."
                )
            found[name] = Listed(name, file.where, file.digest)
    return Listing([found[name] for name in sorted(found)], left_out)


def _one(source: str) -> Listing:
    if source.startswith(FILE):
        listing = list_path(path_of_uri(source))
    elif source.startswith(SCHEME):
        listing = _by_name(list_hub(source)[1])
    elif is_url(source):
        listing = _by_name(list_url(source))
    else:
        listing = list_path(Path(source).expanduser())
    files = [file for file in listing.files if form_of(file.name) or file.digest]
    missing = [
        refused_listed("missing_shard", name)
        for name in missing_shards(file.name for file in files)
    ]
    if not any(form_of(file.name) for file in files):
        others = (
            f" (not books: {', '.join(listing.left_out[:3])})"
            if listing.left_out
            else ""
        )
        raise UserError(
            f"{shown(source)}: no books in it{others}; expected {LISTED}. Check `source` of the"
            " ingest stage."
        )
    return Listing([*files, *missing], listing.left_out)


def _by_name(files: list[Listed]) -> Listing:
    chosen = [file for file in files if not hidden(file.name)]
    return Listing(
        [file for file in chosen if form_of(file.name)],
        [file.name for file in chosen if form_of(file.name) is None]
    )  # fmt: skip


def _prefix(source: str, listing: Listing) -> str:
    """The last part of the source's own name; nothing for a source that is one file of that
    name.
    """
    name = PurePosixPath(source.rstrip("/")).name
    if source.startswith(SCHEME):
        name = name.partition("@")[0]
    return "" if [file.name for file in listing.files] == [name] else f"{name}/"
