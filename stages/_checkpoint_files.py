"""Files of a model from outside the store, fingerprinted by content: its checkpoint, its class."""

from __future__ import annotations

import sys
from pathlib import Path

from gpt1.errors import UserError
from gpt1.model.config import import_variant, variant_module
from gpt1.weights import CHECKPOINT_FILES, INDEX_FILE
from gpt1.weights import MODEL_FILE as MODEL
from stages.contract import ExternalFile


def checkpoint_files(folder: str, setting: str, under: str = "") -> list[ExternalFile]:
    """Weights, shape and vocabulary in `folder`, named below `under`, with absolute paths: a
    process elsewhere may read them.

    UserError, which names the `setting`, where there are no weights. Those of `under` are one file,
    by whose digest ranks know them; others may be sharded.
    """
    path = Path(folder).expanduser().absolute()
    if not (path / MODEL).is_file() and (under or not (path / INDEX_FILE).is_file()):
        raise UserError(
            f"{setting} {folder} has no {MODEL}; set it to a folder written by `gpt1 import`"
            " or `gpt1 export hf`, or to the `output/` of a packed training"
        )
    return [
        ExternalFile(f"{under}{file.name}", file)
        for pattern in CHECKPOINT_FILES
        for file in sorted(path.glob(pattern))
    ]


def variant_files(kind: str) -> list[ExternalFile]:
    """The file of a variant, under the name of its class; none for other kinds of models."""
    if (module := variant_module(kind)) is None:
        return []
    import_variant(kind)
    return [ExternalFile(kind, Path(str(sys.modules[module].__file__)))]
