"""Shards and windows: what is read, in which order, and what is refused."""

from __future__ import annotations

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


def corpus(
    folder: Path, lengths: list[int], vocabulary: str = "v" * 64, dtype: type[np.uint16] | type[np.uint32] = np.uint16
) -> list[Path]:
    """Two parts with books in turn; the ids of a book are its number times 1,000 plus the position."""
    spans: list[BookSpan] = []
    ids: list[list[np.ndarray]] = [[], []]
    for number, length in enumerate(lengths):
        part = number % 2
        start = sum(map(len, ids[part]))
        ids[part].append(np.arange(number * 1000, number * 1000 + length, dtype=dtype))
        sha256 = ids_sha256(ids[part][-1])
        spans.append(BookSpan(f"book {number}", "t", None, "s", f"part-000{part}", "train", start, length, sha256))
    paths = []
    for part, arrays in enumerate(ids):
        path = folder / f"part-000{part}.arrow"
        with path.open("wb") as file:
            joined = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
            write_shard(file, joined, {"vocabulary": vocabulary, "set": "train", "part": f"part-000{part}"})
        paths.append(path)
    with (folder / "books.parquet").open("wb") as file:
        write_spans(file, spans)
    return paths


def windows(folder: Path, lengths: list[int], length: int, seed: int = 0) -> Windows:
    paths = corpus(folder, lengths)
    return Windows(TokenShards.open(paths, folder / "books.parquet", "train"), length, seed)


def test_splitmix64_is_the_published_one() -> None:
    # The first outputs of the reference implementation seeded with 1234567.
    states = np.array([1234567], dtype=np.uint64) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_an_epoch_reads_every_window_once_and_none_crosses_a_book(tmp_path: Path) -> None:
    lengths = [100, 33, 9, 8, 1, 250]
    made = windows(tmp_path, lengths, 8)
    assert made.per_epoch == sum((length - 1) // 8 for length in lengths)
    for epoch in range(3):
        batch = np.concatenate([made.batch(epoch * made.per_epoch + index, 1) for index in range(made.per_epoch)])
        assert (np.diff(batch, axis=1) == 1).all()
        assert (batch[:, 0] // 1000 == batch[:, -1] // 1000).all()
        targets = batch[:, 1:].ravel()
        assert len(set(targets.tolist())) == len(targets)


def test_offsets_differ_between_epochs_and_stay_within_the_rest(tmp_path: Path) -> None:
    made = windows(tmp_path, [1 + 8 * 3 + 7, 8 * 2 + 1], 8)
    offsets = np.array([made.offsets(epoch) for epoch in range(200)])
    assert set(offsets[:, 0].tolist()) == set(range(8))
    assert set(offsets[:, 1].tolist()) == {0}


def test_the_order_is_a_permutation_of_its_own_in_each_epoch_and_seed(tmp_path: Path) -> None:
    made = windows(tmp_path, [900, 900], 8)
    other = windows(tmp_path, [900, 900], 8, seed=1)
    orders = [made.order(0).tolist(), made.order(1).tolist(), other.order(0).tolist()]
    assert all(sorted(order) == list(range(made.per_epoch)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_order_is_the_same_for_ever(tmp_path: Path) -> None:
    made = windows(tmp_path, [100, 100], 10, seed=5)
    assert made.order(3).tolist() == ORDER_OF_EPOCH_3
    assert made.offsets(3).tolist() == OFFSETS_OF_EPOCH_3


@settings(max_examples=50, deadline=None)
@given(batch_size=st.integers(1, 40), step=st.integers(0, 60))
def test_a_batch_is_a_slice_of_one_sequence_of_samples(
    batch_size: int, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = windows(tmp_path_factory.mktemp("corpus"), [200, 77], 8)
    batch = made.batch(step, batch_size)
    assert batch.shape == (batch_size, 9)
    assert batch.dtype == np.int64
    one_by_one = [made.batch(sample, 1)[0] for sample in range(step * batch_size, (step + 1) * batch_size)]
    assert (batch == np.array(one_by_one)).all()


def test_validation_reads_all_windows_at_offset_zero(tmp_path: Path) -> None:
    made = windows(tmp_path, [20, 17], 8)
    assert made.validation()[:, 0].tolist() == [0, 8, 1000, 1008]
    assert made.validation(limit=2)[:, 0].tolist() == [0, 1000]


def test_no_window_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longest of 2 books has 8 ids, expected at least 9"):
        windows(tmp_path, [8, 3], 8)


def test_wide_ids(tmp_path: Path) -> None:
    assert id_type(65_536) is np.uint16
    assert id_type(65_537) is np.uint32
    [first, _] = corpus(tmp_path, [5], dtype=np.uint32)
    assert open_shard(first).ids.dtype == np.uint32


def test_damaged_and_foreign_shards_are_named_and_refused(tmp_path: Path) -> None:
    first, second = corpus(tmp_path, [500, 400])
    books = tmp_path / "books.parquet"
    with pytest.raises(UserError, match=r"part-0000\.arrow: made with the vocabulary v+, expected w+"):
        TokenShards.open([first, second], books, "train", "w" * 64)
    with pytest.raises(UserError, match=r"'book 1' lies in train/part-0001\.arrow, which is missing"):
        TokenShards.open([first], books, "train")
    with pytest.raises(UserError, match=r"part-0000\.arrow: a shard of the set 'train', expected 'held_out'"):
        TokenShards.open([first, second], books, "held_out")
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"part-0000\.arrow: not a whole Arrow file"):
        TokenShards.open([first, second], books, "train")
    with first.open("wb") as file:
        write_shard(file, np.arange(10, dtype=np.uint16), {"vocabulary": "v" * 64, "set": "train", "part": "part-0000"})
    with pytest.raises(UserError, match=r"part-0000\.arrow: 10 ids, expected at least 500"):
        TokenShards.open([first, second], books, "train")


def test_a_flipped_byte_among_the_ids_is_found(tmp_path: Path) -> None:
    first, second = corpus(tmp_path, [500, 400, 300])
    books = tmp_path / "books.parquet"
    data = bytearray(first.read_bytes())
    at = data.index(np.arange(2100, 2110, dtype=np.uint16).tobytes())
    data[at] ^= 4
    first.write_bytes(data)
    with pytest.raises(UserError, match=r"part-0000\.arrow: the ids of the book 'book 2' \(500 to 800\) have the sha256 .*damaged"):
        TokenShards.open([first, second], books, "train")
    assert TokenShards.open([first, second], books, "train", verify=False).tokens == 1200


def read_or_refused(paths: list[Path], books: Path) -> list[list[int]] | str:
    """The ids of each book, or why they were refused."""
    try:
        return [ids.tolist() for ids in TokenShards.open(paths, books, "train", "v" * 64)]
    except UserError as error:
        return str(error)


def test_no_flipped_byte_of_a_shard_passes_unseen(tmp_path: Path) -> None:
    paths = corpus(tmp_path, [40, 30])
    books = tmp_path / "books.parquet"
    whole = paths[0].read_bytes()
    wanted = read_or_refused(paths, books)
    refused = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x10
        paths[0].write_bytes(data)
        found = read_or_refused(paths, books)
        assert found == wanted or "part-0000.arrow" in found, f"byte {at} changed the ids"
        refused += isinstance(found, str)
    assert refused > len(whole) // 10


def test_a_damaged_table_of_books_is_refused(tmp_path: Path) -> None:
    paths = corpus(tmp_path, [40, 30])
    books = tmp_path / "books.parquet"
    whole = books.read_bytes()
    books.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"books\.parquet: cannot be read as the table of books"):
        TokenShards.open(paths, books, "train")


ORDER_OF_EPOCH_3 = [14, 11, 9, 10, 2, 16, 6, 15, 7, 4, 13, 12, 3, 17, 1, 8, 5, 0]
OFFSETS_OF_EPOCH_3 = [7, 3]
