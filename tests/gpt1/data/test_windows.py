"""Shards and windows: what is read, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.data.books_table import BookSpan, write_spans
from gpt1.data.mixing import splitmix64
from gpt1.data.shard_file import id_type, ids_sha256, open_shard, write_shard
from gpt1.data.shards import TokenShards
from gpt1.data.windows import Windows
from gpt1.errors import UserError

ABOUT = {"vocabulary": "v" * 64, "set": "train", "part": "part-0000"}


def corpus(folder: Path, lengths: Sequence[int], dtype: type[np.integer] = np.uint16) -> list[Path]:
    """Two parts with books in turn; an id is its book's number times 1,000 plus its position."""
    spans: list[BookSpan] = []
    ids: list[list[np.ndarray]] = [[], []]
    for number, length in enumerate(lengths):
        part, start = number % 2, sum(map(len, ids[number % 2]))
        ids[part].append(np.arange(number * 1000, number * 1000 + length, dtype=dtype))
        at = ("s", f"part-000{part}", "train", start, length, ids_sha256(ids[part][-1]))
        spans.append(BookSpan(f"book {number}", "t", None, *at))
    paths = [folder / f"part-000{part}.arrow" for part in range(2)]
    for path, arrays in zip(paths, ids, strict=True):
        with path.open("wb") as file:
            write_shard(
                file, np.concatenate([*arrays, np.zeros(0, dtype)]), {**ABOUT, "part": path.stem}
            )
    with (folder / "books.parquet").open("wb") as file:
        write_spans(file, spans)
    return paths


def windows(folder: Path, lengths: Sequence[int], length: int, seed: int = 0) -> Windows:
    paths = corpus(folder, lengths)
    return Windows(TokenShards.open(paths, folder / "books.parquet", "train"), length, seed)


def test_splitmix64_is_the_published_one() -> None:
    # The first outputs of the reference implementation seeded with 1234567.
    states = np.array([1234567], dtype=np.uint64) + np.arange(3, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    assert splitmix64(states).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]


def test_an_epoch_reads_each_window_once_and_none_crosses_a_book(tmp_path: Path) -> None:
    lengths = [100, 33, 9, 8, 1, 250]
    made = windows(tmp_path, lengths, 8)
    assert made.per_epoch == sum((length - 1) // 8 for length in lengths)
    for epoch in range(3):
        first = epoch * made.per_epoch
        batch = np.concatenate([made.batch(first + index, 1) for index in range(made.per_epoch)])
        assert (np.diff(batch, axis=1) == 1).all()
        assert (batch[:, 0] // 1000 == batch[:, -1] // 1000).all()
        assert len(np.unique(batch[:, 1:])) == batch[:, 1:].size


def test_offsets_differ_between_epochs_and_stay_within_the_rest(tmp_path: Path) -> None:
    made = windows(tmp_path, [1 + 8 * 3 + 7, 8 * 2 + 1], 8)
    offsets = np.array([made.offsets(epoch) for epoch in range(200)])
    assert [set(column.tolist()) for column in offsets.T] == [set(range(8)), {0}]


def test_the_order_is_a_permutation_of_its_own_in_each_epoch_and_seed(tmp_path: Path) -> None:
    made, other = windows(tmp_path, [900, 900], 8), windows(tmp_path, [900, 900], 8, seed=1)
    orders = [made.order(0).tolist(), made.order(1).tolist(), other.order(0).tolist()]
    assert all(sorted(order) == list(range(made.per_epoch)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_order_is_the_same_for_ever(tmp_path: Path) -> None:
    made = windows(tmp_path, [100, 100], 10, seed=5)
    assert made.order(3).tolist() == [14, 11, 9, 10, 2, 16, 6, 15, 7, 4, 13, 12, 3, 17, 1, 8, 5, 0]
    assert made.offsets(3).tolist() == [7, 3]


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), step=st.integers(0, 60))
def test_a_batch_is_a_slice_of_one_sequence_of_samples(
    size: int, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = windows(tmp_path_factory.mktemp("corpus"), [200, 77], 8)
    batch = made.batch(step, size)
    assert (batch.shape, batch.dtype) == ((size, 9), np.int64)
    samples = range(step * size, (step + 1) * size)
    assert (batch == np.array([made.batch(sample, 1)[0] for sample in samples])).all()


def test_validation_reads_all_windows_at_offset_zero(tmp_path: Path) -> None:
    made = windows(tmp_path, [20, 17], 8)
    assert made.validation()[:, 0].tolist() == [0, 8, 1000, 1008]
    assert made.validation(limit=2)[:, 0].tolist() == [0, 1000]


def test_no_window_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longest of 2 books has 8 ids, expected at least 9"):
        windows(tmp_path, [8, 3], 8)


def test_wide_ids(tmp_path: Path) -> None:
    assert (id_type(65_536), id_type(65_537)) == (np.uint16, np.uint32)
    [first, _] = corpus(tmp_path, [5], dtype=np.uint32)
    assert open_shard(first).ids.dtype == np.uint32


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other(path: Path) -> None:
    with path.open("wb") as file:
        write_shard(file, np.arange(10, dtype=np.uint16), ABOUT)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(2100, 2110, dtype=np.uint16).tobytes())] ^= 4
    path.write_bytes(data)


FIRST = r"part-0000\.arrow: "


@pytest.mark.parametrize(
    ("spoil", "name", "parts", "kind", "vocabulary", "message"),
    [
        (None, "", 2, "train", "w" * 64, FIRST + "made with the vocabulary v+, expected w+"),
        (None, "", 1, "train", None, r"'book 1' lies in train/part-0001\.arrow, which is missing"),
        (None, "", 2, "held_out", None, FIRST + "a shard of the set 'train', expected 'held_out'"),
        (shorter, "part-0000.arrow", 2, "train", None, FIRST + "not a whole Arrow file"),
        (other, "part-0000.arrow", 2, "train", None, FIRST + "10 ids, expected at least 500"),
        (flipped, "part-0000.arrow", 2, "train", None, FIRST + r"the ids of the book 'book 2' "),
        (shorter, "books.parquet", 2, "train", None, r"books\.parquet: cannot be read"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_shards_are_named_and_refused(
    spoil: Callable[[Path], None] | None, name: str, parts: int, kind: str, vocabulary: str | None,
    message: str, tmp_path: Path,
) -> None:  # fmt: skip
    paths, books = corpus(tmp_path, [500, 400, 300]), tmp_path / "books.parquet"
    if spoil:
        spoil(tmp_path / name)
    with pytest.raises(UserError, match=message):
        TokenShards.open(paths[:parts], books, kind, vocabulary)
    if spoil is flipped:
        assert TokenShards.open(paths, books, "train", verify=False).tokens == 1200


def test_no_flipped_byte_of_a_shard_passes_unseen(tmp_path: Path) -> None:
    paths, books = corpus(tmp_path, [40, 30]), tmp_path / "books.parquet"

    def ids_or_error() -> list[list[int]] | str:
        try:
            return [ids.tolist() for ids in TokenShards.open(paths, books, "train", "v" * 64)]
        except UserError as error:
            return str(error)

    data, wanted, refused = bytearray(paths[0].read_bytes()), ids_or_error(), 0
    for at in range(len(data)):
        data[at] ^= 0x10
        paths[0].write_bytes(data)
        data[at] ^= 0x10
        found = ids_or_error()
        assert found == wanted or "part-0000.arrow" in found, f"byte {at} changed the ids"
        refused += isinstance(found, str)
    assert refused > len(data) // 10
