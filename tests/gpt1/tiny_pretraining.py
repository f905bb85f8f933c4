"""A pre-training small enough for tests: real shards of made-up books and a real vocabulary.

It runs in this process (`train_here`) or on ranks that stay (`train_on`).
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.data.shards import DocumentSpan, id_type, ids_sha256, write_shard, write_spans
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.config import PretrainConfig, Prompt, RuntimeConfig, to_json
from gpt1.train.dist import Stopped
from gpt1.train.engine import MicroBatch
from gpt1.train.trainer import ConsoleReporter, open_pretrainer
from tests.gpt1.rank_group import RankGroup

MERGES = [("t", "h"), ("th", "e</w>"), ("b", "e</w>"), ("a", "t</w>")]
VOCABULARY = Vocabulary.from_merges(list("abcdeht"), MERGES)
CONFIG = PretrainConfig(
    context=8, width=16, layers=2, heads=2, max_steps=30, batch_size=8, micro_batch_size=2,
    lr=1e-2, warmup_steps=2, log_every=5, validate_every=4, validate_sequences=5,
    snapshot_every=10, sample_tokens=5, checkpoint_every=3,
)
MODEL = CONFIG.shape(VOCABULARY.size)
PROMPTS = (Prompt("the be", (1, 2)), Prompt("a", (3,)))
POISON = "noise"
AtUpdate = Callable[[int], bool]
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ to compile with")


@dataclass(frozen=True)
class Place(RuntimeConfig):
    """What a test trains, and where. `trace`: see `DeterminismLog`."""

    config: PretrainConfig = CONFIG
    trace: bool = False


def write_data(folder: Path, poison: int = 0) -> Place:
    """Three training books and two held out, each a noisy walk over the ids that can be learned.

    `poison`: length of a fourth training book, of random ids, which a model of the walk finds very
    unlikely.
    """
    draw = np.random.default_rng(0)
    spans = []
    for chosen, lengths in (("train", [150, 90, 120]), ("held_out", [45, 77])):
        ids = np.cumsum(draw.integers(1, 3, sum(lengths))) % VOCABULARY.size
        if poison and chosen == "train":
            ids = np.concatenate([ids, draw.integers(0, VOCABULARY.size, poison)])
            lengths.append(poison)
        starts = np.cumsum([0, *lengths])
        for n, length in enumerate(lengths):
            name = POISON if n == 3 else f"{chosen}{n}"
            book = ids[starts[n] : starts[n] + length].astype(id_type(VOCABULARY.size))
            place = ("part-0000", chosen, int(starts[n]), length, ids_sha256(book))
            spans.append(DocumentSpan(name, "a title", None, "a file", *place))
        file = folder / chosen / "part-0000.arrow"
        file.parent.mkdir(parents=True)
        with file.open("wb") as handle:
            metadata = {"vocabulary": VOCABULARY.sha256, "set": chosen, "part": "part-0000"}
            write_shard(handle, ids.astype(id_type(VOCABULARY.size)), metadata)
    with (folder / "books.parquet").open("wb") as handle:
        write_spans(handle, spans)
    VOCABULARY.save(folder / "vocabulary")
    shard = "part-0000.arrow"
    names = {name: str(folder / name) for name in ("vocabulary", "output")}
    return Place(
        train=(str(folder / "train" / shard),), held_out=(str(folder / "held_out" / shard),),
        books=str(folder / "books.parquet"), **names, prompts=PROMPTS, device="cpu", threads=1,
    )


def changed(place: Place, **values: Any) -> Place:
    """The same but for `values`, of its own or of its settings."""
    names = values.keys() & PretrainConfig.model_fields.keys()
    settings = {name: values.pop(name) for name in names}
    config = place.config.model_copy(update=settings)
    return dataclasses.replace(place, config=config, **values)


def write_json(file: Path, place: Place) -> None:
    """The file that torchrun trains from."""
    runtime = {one.name: getattr(place, one.name) for one in dataclasses.fields(RuntimeConfig)}
    file.write_text(to_json(place.config, RuntimeConfig(**runtime)))


class DeterminismLog:
    """What a rank computes: a line a micro-batch of step, place in the global batch, and hashes of
    its ids and of the random state after it, which follows from the seed and the numbers drawn.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"rank-{rank:05d}.jsonl").open("a", encoding="utf-8")

    def __call__(self, step: int, micro_batch: MicroBatch) -> None:
        state = torch.get_rng_state()
        values = {"batch": micro_batch.inputs, "random": (state,)}
        row = {name: [one.numpy().tobytes() for one in these] for name, these in values.items()}
        hashed = {name: hashlib.sha256(b"".join(row[name])).hexdigest()[:16] for name in row}
        self._file.write(json.dumps({"step": step, "index": micro_batch.index, **hashed}) + "\n")
        self._file.flush()


class Killed(Exception):
    """Ends a training in this process as a kill does: at once, without a checkpoint."""


class Heard(ConsoleReporter):
    """Keeps what a training says. `at_update`, called in each update, may ask to stop, or raise."""

    def __init__(self, at_update: AtUpdate | None = None) -> None:
        self.lines: list[str] = []
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.updates = 0
        self._at_update = at_update

    def info(self, text: str) -> None:
        self.lines.append(text)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values))

    def should_stop(self) -> bool:
        self.updates += 1
        return self._at_update is not None and self._at_update(self.updates)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def train_here(place: Place, at_update: AtUpdate | None = None) -> Heard:
    """Pre-train in this process, to the end or to where it is asked to stop."""
    heard = Heard(at_update)
    pretrainer = open_pretrainer(place.config, place, heard)
    if place.trace:
        log = DeterminismLog(Path(place.output) / "trace", pretrainer.ranks.rank)
        pretrainer.engine.observer = log
    try:
        pretrainer.train()
    except Stopped as stopped:
        heard.info(str(stopped))
    finally:
        pretrainer.checkpoints.close()  # a real kill would end its thread
    return heard


def train_until_killed(place: Place, update: int) -> None:
    """Pre-train in this process to an update, counted from where the training is taken up."""

    def at_update(now: int) -> bool:
        if now == update:
            raise Killed
        return False

    with pytest.raises(Killed):
        train_here(place, at_update)


def train_on(ranks: RankGroup, place: Place) -> str:
    """Pre-train on these ranks; returns what rank 0 said. Raises RankError."""
    return str(ranks.call(train_here, place)[0].text)


def output_of(place: Place) -> dict[str, bytes]:
    """The deterministic outputs of the training there, by name."""
    output = Path(place.output)
    names = ["model.safetensors", "config.json", "metrics.jsonl", "samples.jsonl", "samples.md"]
    files = [output / name for name in [*names, "held_out_books.jsonl"]]
    files += [*output.glob("skipped.jsonl"), *(output / "snapshots").iterdir()]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def rows_of(place: Place, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of an output in JSON lines."""
    return [json.loads(line) for line in (Path(place.output) / file).read_text().splitlines()]


def curve(place: Place, name: str) -> list[float]:
    """A metric's values in the order of the steps."""
    return [row[name] for row in rows_of(place) if name in row]


def traces(place: Place) -> list[dict[str, Any]]:
    """What all ranks computed, in the order of steps and micro-batches."""
    files = (Path(place.output) / "trace").glob("rank-*.jsonl")
    rows = [row for file in files for row in rows_of(place, f"trace/{file.name}")]
    return sorted(rows, key=lambda row: (row["step"], row["index"]))


def checkpoints_of(place: Place) -> list[int]:
    """The steps of its checkpoints."""
    return sorted(int(path.name[5:]) for path in Path(place.output).glob("checkpoints/step-*"))
