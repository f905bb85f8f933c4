"""One shard: an uncompressed Arrow IPC file with one column of ids, mapped into memory when
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from gpt1.errors import UserError

Ids = np.ndarray[tuple[int], np.dtype[np.uint16 | np.uint32]]
_AGAIN = "run the shard stage again"


def id_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """uint16 while every id fits, else uint32."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def ids_sha256(ids: Ids) -> str:
    """The sha256 of ids (n,), as they lie in a shard (about a second for a gigabyte)."""
    return sha256(np.ascontiguousarray(ids).data).hexdigest()


def write_shard(file: IO[bytes], ids: Ids, metadata: Mapping[str, str]) -> None:
    """Write ids (n,) as one record batch.

    `metadata` needs `vocabulary` (its sha256), `set` and `part`.
    """
    column = pa.array(ids)
    schema = pa.schema(
        [pa.field("ids", column.type, nullable=False)], metadata=dict(sorted(metadata.items()))
    )
    with pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))


@dataclass(frozen=True)
class MappedShard:
    """A shard opened for reading: `ids` (n,) lies in the file, not in memory."""

    ids: Ids
    vocabulary: str
    set: str
    part: str


def open_shard(path: Path) -> MappedShard:
    """Map a shard into memory.

    UserError names the file when it is missing, damaged or something else.
    """
    try:
        # The arrays keep the mapping alive.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        metadata = {
            key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
        }
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such shard; {_AGAIN}.") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a complete Arrow file ({str(error).splitlines()[0]}); {_AGAIN}."
        ) from error
    missing = {"vocabulary", "set", "part"} - metadata.keys()
    if missing or table.column_names != ["ids"] or table["ids"].num_chunks != 1:
        raise UserError(
            f"{path}: an Arrow file, but not a token shard (one column `ids` in one batch, with"
            f" vocabulary, set, part); {_AGAIN}."
        )
    column = table["ids"].chunk(0)
    if column.type not in (pa.uint16(), pa.uint32()) or column.null_count:
        raise UserError(
            f"{path}: ids of type {column.type}, expected uint16 or uint32 without nulls; {_AGAIN}."
        )
    ids = column.to_numpy(zero_copy_only=True)
    return MappedShard(ids, metadata["vocabulary"], metadata["set"], metadata["part"])
