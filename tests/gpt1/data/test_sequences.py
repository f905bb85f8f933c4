"""Shards and sequences: what is read, in which order, and what is refused."""

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt1.data.sequences import SequenceSampler, batch_of, splitmix64, step_of
from gpt1.data.shards import (
    DocumentSpan,
    Shards,
    id_type,
    ids_sha256,
    open_shard,
    write_shard,
    write_spans,
)
from gpt1.errors import UserError
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.trainer import read_share
from tests.conftest import refuses

ABOUT = {"vocabulary": "v" * 64, "set": "train", "part": "part-0000"}


def corpus(
    folder: Path, lengths: Sequence[int], dtype: type[np.integer] = np.uint16, left_out: int = -1
) -> list[Path]:
    """Two parts with books in turn; an id is its book's number times 1,000 plus its position."""
    spans, ids = list[DocumentSpan](), [np.zeros(0, dtype), np.zeros(0, dtype)]
    for number, length in enumerate(lengths):
        if number == left_out:
            continue
        part, book = number % 2, np.arange(number * 1000, number * 1000 + length, dtype=dtype)
        at = ("s", f"part-000{part}", "train", len(ids[part]), length, ids_sha256(book))
        ids[part] = np.concatenate([ids[part], book])
        spans.append(DocumentSpan(f"book {number}", "t", None, *at))
    paths = [folder / f"part-000{part}.arrow" for part in range(2)]
    for path, array in zip(paths, ids, strict=True):
        with path.open("wb") as file:
            write_shard(file, array, {**ABOUT, "part": path.stem})
    with (folder / "books.parquet").open("wb") as file:
        write_spans(file, spans)
    return paths


def sampler_of(
    folder: Path, lengths: Sequence[int], length: int, seed: int = 0, left_out: int = -1
) -> SequenceSampler:
    paths = corpus(folder, lengths, left_out=left_out)
    return SequenceSampler(Shards.open(paths, folder / "books.parquet", "train"), length, seed)


def test_splitmix64_is_the_published_one() -> None:
    # The first outputs of the reference implementation seeded with 1234567.
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(states).tolist() == wanted


def test_an_epoch_reads_each_sequence_once_and_none_crosses_a_book(tmp_path: Path) -> None:
    made = sampler_of(tmp_path, [100, 33, 9, 8, 1, 250], 8)
    assert made.per_epoch == 12 + 4 + 1 + 31
    for epoch in range(3):
        batch = made.batch(epoch, made.per_epoch)
        assert (np.diff(batch, axis=1) == 1).all()
        assert (batch[:, 0] // 1000 == batch[:, -1] // 1000).all()
        assert len(np.unique(batch[:, 1:])) == batch[:, 1:].size


def test_offsets_differ_between_epochs_and_stay_within_the_rest(tmp_path: Path) -> None:
    made = sampler_of(tmp_path, [1 + 8 * 3 + 7, 8 * 2 + 1], 8)
    offsets = np.array([made.offsets(epoch) for epoch in range(200)])
    assert [set(column.tolist()) for column in offsets.T] == [set(range(8)), {0}]


def test_a_book_less_moves_no_other_sequence(tmp_path: Path) -> None:
    """Offsets and relative order stay; each id tells its book and its place there."""
    lengths = [100, 33, 19, 8, 1, 250, 77]
    for seed, left_out in product(range(3), (0, 2, 5)):
        made = sampler_of(tmp_path, lengths, 8, seed)
        epochs = [made.batch(epoch, made.per_epoch) for epoch in range(3)]
        less = sampler_of(tmp_path, lengths, 8, seed, left_out)
        for epoch, batch in enumerate(epochs):
            others = batch[batch[:, 0] // 1000 != left_out]
            assert 0 < len(others) < len(batch)
            assert np.array_equal(less.batch(epoch, less.per_epoch), others)


def test_the_order_is_the_same_for_ever(tmp_path: Path) -> None:
    made = sampler_of(tmp_path, [100, 100], 10, seed=5)
    assert made.order(3).tolist() == [5, 13, 2, 6, 16, 12, 0, 8, 15, 7, 10, 14, 4, 3, 1, 9, 17, 11]
    assert made.offsets(3).tolist() == [8, 5]


def test_a_batch_is_a_slice_of_one_sequence_of_samples(tmp_path: Path) -> None:
    made = sampler_of(tmp_path, [200, 77], 8)
    samples = np.array([made.batch(sample, 1)[0] for sample in range(2500)])
    for size, step in product((*range(1, 40, 3), 33, 34), (*range(4), 31, 59)):
        batch = made.batch(step, size)
        assert (batch.shape, batch.dtype) == ((size, 9), np.int64)
        assert (batch == samples[step * size : (step + 1) * size]).all()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_read_disjoint_shares_of_a_batch(
    world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else. The batch is the last of an epoch and the first of the next."""
    made, step = sampler_of(tmp_path, [200, 77], 8), 33 // 8
    config = PretrainConfig(batch_size=8, micro_batch_size=2)
    batch, read, reading = made.batch(step, 8), list[int](), made.locate
    monkeypatch.setattr(made, "locate", lambda sample: read.append(sample) or reading(sample))
    found: dict[int, list[list[int]]] = {}
    for rank in range(world):
        share = read_share(made, step, config, DistContext(rank, world, torch.device("cpu")))
        assert len(share) == 4 // world
        found |= {one.index: one.inputs[0].tolist() for one in share}
    assert [row for index in range(4) for row in found[index]] == batch.tolist()
    assert sorted(read) == [*range(step * 8, step * 8 + 8)]


def test_validation_reads_all_sequences_at_offset_zero(tmp_path: Path) -> None:
    made = sampler_of(tmp_path, [20, 17], 8)
    assert made.validation()[:, 0].tolist() == [0, 8, 1000, 1008]


@pytest.mark.parametrize("samples", [1, 17, 33, 34, 100])
def test_the_samples_that_read_a_span(samples: int, tmp_path: Path) -> None:
    """Those of a span of each place and length, against all ids of all samples."""
    made = sampler_of(tmp_path, [200, 77, 5], 8)
    spans = [
        (book, start, start + length)
        for book, size in enumerate(made.shards.lengths) for length in (1, 5, 8, 9, 30)
        for start in range(max(0, size - length + 1))
    ]  # fmt: skip
    batch = made.batch(0, samples)
    for (book, start, end), reads in zip(spans, made.reads(spans, samples), strict=True):
        ids = made.shards.book(book)[start:end]
        parts = [(n, np.intersect1d(row, ids)) for n, row in enumerate(batch)]
        expected = {n: (int(part[0]), int(part[-1])) for n, part in parts if len(part)}
        all_ids = made.shards.book(book)
        found = {sample: (int(all_ids[a]), int(all_ids[b - 1])) for sample, a, b in reads}
        assert (found, len(found)) == (expected, len(reads))


def test_the_step_of_a_batch() -> None:
    skipped = [3, 4, 9]
    batches = [batch_of(step, skipped) for step in range(12)]
    assert batches == [0, 1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    steps = {step_of(batch, skipped): batch for batch in range(15) if batch not in skipped}
    assert list(steps) == list(range(12))
    assert list(steps.values()) == batches
    assert [step_of(batch, skipped) for batch in skipped] == [None] * 3


def test_no_sequence_fits(tmp_path: Path) -> None:
    refuses("longest of 2 books has 8 tokens, expected at least 9", sampler_of, tmp_path, [8, 3], 8)


def test_wide_ids(tmp_path: Path) -> None:
    assert (id_type(65_536), id_type(65_537)) == (np.uint16, np.uint32)
    assert open_shard(corpus(tmp_path, [5], np.uint32)[0]).ids.dtype == np.uint32


def shorter(data: bytes) -> bytes:
    return data[: len(data) // 2]


def other(_: bytes) -> bytes:
    write_shard(file := io.BytesIO(), np.arange(10, dtype=np.uint16), ABOUT)
    return file.getvalue()


def flipped(data: bytes) -> bytes:
    return data.replace(np.uint16(2100).tobytes(), np.uint16(2104).tobytes(), 1)


FIRST = r"part-0000\.arrow: "


def test_foreign_and_damaged_shards_are_named_and_refused(tmp_path: Path) -> None:
    paths, books = corpus(tmp_path, [500, 400, 300]), tmp_path / "books.parquet"
    for parts, kind, vocabulary, message in (
        (2, "train", "w" * 64, FIRST + "made with the vocabulary v+, expected w+"),
        (1, "train", None, r"'book 1' is in train/part-0001\.arrow, which is missing"),
        (2, "held_out", None, FIRST + "a shard of the set 'train', expected 'held_out'"),
    ):
        refuses(message, Shards.open, paths[:parts], books, kind, vocabulary)
    for spoil, name, message in (
        (shorter, "books.parquet", r"books\.parquet: cannot be read"),
        (shorter, "part-0000.arrow", FIRST + "not a complete Arrow file"),
        (other, "part-0000.arrow", FIRST + "10 tokens, expected at least 500"),
        (flipped, "part-0000.arrow", FIRST + r"the ids of the book 'book 2' "),
    ):
        corpus(tmp_path, [500, 400, 300])
        (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
        refuses(message, Shards.open, paths, books, "train")
    assert Shards.open(paths, books, "train", verify=False).tokens == 1200


def test_no_flipped_byte_of_a_shard_passes_unseen(tmp_path: Path) -> None:
    paths, books = corpus(tmp_path, [40, 30]), tmp_path / "books.parquet"

    def ids_or_error() -> list[list[int]] | str:
        try:
            return [ids.tolist() for ids in Shards.open(paths, books, "train", "v" * 64)]
        except UserError as error:
            return str(error)

    data, wanted, refused = paths[0].read_bytes(), ids_or_error(), 0
    for at in range(len(data)):
        paths[0].write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        found = ids_or_error()
        assert found == wanted or "part-0000.arrow" in found, f"byte {at} changed the ids"
        refused += isinstance(found, str)
    assert refused > len(data) // 10
