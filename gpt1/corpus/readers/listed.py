"""A file of the corpus before it is read: its name in the corpus, where it lies, and what is
known of its content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpt1.corpus.document import Refused

_REFUSED = "refused:"


@dataclass(frozen=True)
class Listed:
    """`where`: a path of this machine, a URL, or `hf://` with a commit.

    `digest` is None where the content is still to be hashed, `refused:RULE` for what stood in the
    place of a file of the corpus.
    """

    name: str
    where: str
    digest: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    `left_out`: names of files that are no books by their names; they are not part of the corpus.
    """

    files: list[Listed]
    left_out: list[str]


_RULES = {
    "loop": (
        "a link to a folder that was already read", "a tree without loops", "Remove the link",
    ),
    "missing_shard": (
        "there is no such file", "every shard counted in the file names", "Download it",
    ),
    "not_a_file": ("it is a pipe, a device or a folder", "a file", "Remove it"),
    "unreadable": (
        "it cannot be read, or it is a broken link", "a readable file",
        "Fix its permissions or the link",
    ),
    "unreadable_folder": ("it cannot be listed", "a readable folder", "Fix its permissions"),
    "bad_name": ("a name with unprintable characters", "a name in UTF-8", "Rename it"),
}


def refused_listed(rule: str, name: str) -> Listed:
    """What stands in a listing for a file that cannot be read: it belongs to the corpus, and its
    absence is recorded.
    """
    return Listed(printable(name), "", f"{_REFUSED}{rule}")


def refusal(name: str, digest: str | None) -> Refused | None:
    """The record of a file refused when it was listed; None for one that was not."""
    if digest is None or not digest.startswith(_REFUSED):
        return None
    rule = digest.removeprefix(_REFUSED)
    found, expected, do = _RULES[rule]
    return Refused(name, None, rule, found, expected, f"{do}; the rest was read.")


def printable(name: str) -> str:
    """The name with what cannot be printed or encoded written as escapes."""
    whole = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in whole
    )


def missing_shards(names: Iterable[str]) -> list[str]:
    """The names that `train-00000-of-00003.parquet` and its like speak of and that are not
    there.
    """
    present = set(names)
    wanted: set[str] = set()
    for name in present:
        found = re.fullmatch(r"(.*-)(\d{5})(-of-)(\d{5})(.*)", name)
        if found and int(found[4]) <= 99_999:
            wanted.update(
                f"{found[1]}{number:05d}{found[3]}{found[4]}{found[5]}"
                for number in range(int(found[4]))
            )
    return sorted(wanted - present)
