"""What a file is, by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

CODECS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst"}
_SHORT = {
    ".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz",
    ".tzst": ".tar.zst",
}
_KINDS = {
    ".txt": "text", ".text": "text", ".md": "text", ".epub": "epub", ".zip": "zip", ".tar": "tar",
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_NEVER_PACKED = {"epub", "zip", "parquet"}
LISTED = (
    ".txt, .md, .epub, .jsonl, .parquet, .zip or .tar; .txt, .md, .jsonl and .tar also with .gz,"
    " .bz2, .xz or .zst"
)


@dataclass(frozen=True)
class Form:
    """`kind`: text, epub (one book each); zip, tar, parquet, jsonl (many).

    `codec`: what it is packed with. `suffix`: all of it.
    """

    kind: str
    codec: str | None
    suffix: str

    @property
    def many(self) -> bool:
        """Whether it holds many books."""
        return self.kind not in ("text", "epub")


def form_of(name: str) -> Form | None:
    """The form of a file by its name, in capitals or not; None for what holds no books."""
    last = PurePosixPath(name).suffix
    whole = _SHORT.get(last.lower())
    if whole is not None:
        return Form("tar", CODECS[PurePosixPath(whole).suffix], last)
    codec = CODECS.get(last.lower())
    inner = PurePosixPath(name[: -len(last)]).suffix if codec else last
    kind = _KINDS.get(inner.lower())
    if kind is None or (codec and kind in _NEVER_PACKED):
        return None
    return Form(kind, codec, inner + last if codec else last)


def without_suffix(name: str) -> str:
    """The name without the suffix of its form; as it is when it has none."""
    form = form_of(name)
    return name[: -len(form.suffix)] if form else name


def hidden(name: str) -> bool:
    """Whether a file is nobody's book by custom: a part of its path begins with a dot, or is
    macOS's `__MACOSX`.
    """
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX"
        for part in PurePosixPath(name).parts
    )
