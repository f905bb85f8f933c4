"""Names that come from data or from a user, before they are used as paths."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from gpt1.errors import UserError

FILE = "file://"


def leads_out(name: object) -> bool:
    """Whether a name leads out of the folder it is relative to: an absolute one, one with `..`,
    an empty one, or no text.
    """
    if not isinstance(name, str) or "\0" in name:
        return True
    steps = [step for step in name.split("/") if step not in ("", ".")]
    return not steps or name.startswith("/") or ".." in steps


def is_url(text: str) -> bool:
    """Whether it has a scheme, as paths of this machine have not."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def path_of_uri(uri: str) -> Path:
    """The path that `file:///PATH` names: `%20` is a space, `?` and `#` are themselves. UserError
    where it is not absolute.
    """
    path = unquote(uri.removeprefix(FILE).removeprefix("localhost"))
    if not path.startswith("/") or "\0" in path:
        raise UserError(
            f"{uri}: expected an absolute path after file://, such as file:///data/books"
        )
    return Path(path)
