"""Files of a checkpoint from outside the store, fingerprinted by content."""

from __future__ import annotations

from pathlib import Path

from gpt1.errors import UserError
from stages.contract import ExternalFile

MODEL = "model.safetensors"
FILES = (MODEL, "config.json", "encoder_bpe_*.json", "vocab_*.bpe", "vocab.json", "merges.txt")


def checkpoint_files(folder: str, setting: str, under: str = "") -> list[ExternalFile]:
    """Weights, shape and vocabulary in `folder`, named below `under`, with absolute paths: a
    process elsewhere may read them.

    UserError, which names the `setting`, where there are no weights.
    """
    path = Path(folder).expanduser().absolute()
    if not (path / MODEL).is_file():
        raise UserError(
            f"{setting} {folder} has no {MODEL}; set it to a folder written by `gpt1 import`"
            " or `gpt1 export hf`, or to the `output/` of a packed training"
        )
    return [
        ExternalFile(f"{under}{file.name}", file)
        for pattern in FILES
        for file in sorted(path.glob(pattern))
    ]
