"""Names that come from data, before they are used as paths."""

from __future__ import annotations

from pathlib import PurePosixPath


def leads_out(name: object) -> bool:
    """Whether a name leads out of the folder it is relative to: an absolute one, one with `..`, an empty one, or no text."""
    if not isinstance(name, str) or "\0" in name:
        return True
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts
