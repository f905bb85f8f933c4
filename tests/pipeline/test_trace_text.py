"""`gpt1 trace --text` and `gpt1 generate --trace` against the books and the order of training.

The text stages are real; the pre-training is a record with the settings of the plan, a rollback
and a random model.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpt1.data.sequences import SequenceSampler, batch_of
from gpt1.data.shards import Shards
from gpt1.model.gpt import GPT
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.config import PretrainConfig
from gpt1.weights.store import save_model
from pipeline.cli.lineage import copied_text
from pipeline.execution.worker import Outputs
from pipeline.planning.last_run import RunArtifacts, last_artifacts, remember
from pipeline.planning.planner import Plan, Selection
from pipeline.store import cache as host_cache
from pipeline.store.base import Store
from tests.conftest import ROOT, refuses
from tests.pipeline.conftest import publish_all
from tests.pipeline.inline import artifact, output, plan_of, run_inline
from tests.pipeline.inprocess import gpt1, refused, said

WORKFLOW = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"
SKIPPED = [4, 5]
Monkey = pytest.MonkeyPatch


@dataclass(frozen=True)
class Trained:
    """What a run made, and the sequences that its pre-training read."""

    plan: Plan
    tokenizer: Tokenizer
    sampler: SequenceSampler
    config: PretrainConfig

    def words(self, book: int, start: int, length: int) -> tuple[int, list[int]]:
        """The ids of the complete words of a training book from about `start` to about the end,
        which is no line break, and where they begin.
        """
        ids = self.sampler.shards.book(book).tolist()
        tokens = [self.tokenizer.vocabulary.tokens[token] for token in ids]
        ends = [at + 1 for at in range(start - 1, start + length + 60)
                if tokens[at].endswith("</w>") and tokens[at].isprintable()]
        first = next(end for end in ends if tokens[end].isprintable())
        last = next(end for end in ends if end >= first + length)
        return first, ids[first:last]

    def text(self, book: int, start: int, length: int) -> str:
        """The same as text."""
        return self.tokenizer.decode(self.words(book, start, length)[1])

    def trace(self, *words: object) -> Any:
        return gpt1("trace", *words, "--json", "--store", self.plan.store.root).json()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    store = tmp_path_factory.mktemp("trained") / "store"
    run_inline(plan_of(WORKFLOW, store, selection=Selection(("shard",))))
    shard = artifact(plan_of(WORKFLOW, store), "shard")
    table, files = output(shard, "books.parquet"), shard.under("train/")
    shards = Shards.open([Path(file.key) for file in files], table, "train")
    excluded = json.dumps([shards.spans[1].book])
    # Three epochs and a part of one.
    steps = 3 * SequenceSampler(shards, 16).per_epoch // 16 + 40
    changes = f"pretrain.exclude_books={excluded}", f"pretrain.max_steps={steps}"
    plan = plan_of(WORKFLOW, store, *changes)
    config = plan.entries["pretrain"].cell.settings
    assert isinstance(config, PretrainConfig)
    learned = artifact(plan, "vocabulary")
    vocabulary = Vocabulary.load(Path(learned.under("vocab_")[0].key).parent)
    publish_pretrain(plan, config, vocabulary)
    remember(plan)
    sampler = SequenceSampler(shards, config.context, config.seed)
    return Trained(plan, Tokenizer(vocabulary), sampler, config)


def publish_pretrain(
    plan: Plan, config: PretrainConfig, vocabulary: Vocabulary, cell: str = "pretrain"
) -> None:
    entry = plan.entries[cell]
    outputs = Outputs(plan.store, plan.store.new_attempt("pretrain", entry.fingerprint))
    save_model(outputs.folder, GPT(config.shape(vocabulary.size)))
    outputs.declare("model.safetensors")
    event = {"step": 6, "loss": None, "before": 1.0, "batches": SKIPPED, "books": []}
    outputs.declare("skipped.jsonl").write_text(json.dumps(event) + "\n")
    inputs = {name: plan.entries[name].fingerprint for name in ("shard", "vocabulary")}
    more = {"identity": entry.identity, "settings": config.model_dump(mode="json")}
    assert publish_all(plan.store, outputs, cell=cell, inputs=inputs, **more)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Monkey) -> Path:
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("book", "length"), [(0, 12), (1, 40), (2, 20)])
def test_every_step_that_read_a_span(book: int, length: int, trained: Trained) -> None:
    """Against all batches of the run, read one after another."""
    start, ids = trained.words(book, trained.sampler.shards.lengths[book] // 2, length)
    length = len(ids)
    found = trained.trace("--text", trained.tokenizer.decode(ids))
    [row] = [row for span in found["spans"] for row in span["places"]
             if (row["in_book"]["token"], span["set"]) == (start, "train")]  # fmt: skip
    size, expected = trained.config.batch_size, []
    for step in range(trained.config.max_steps):
        batch = batch_of(step, SKIPPED)
        for number in range(size):
            where, first = trained.sampler.locate(batch * size + number)
            shared = range(max(start, first), min(start + length, first + 17))
            if where == book and shared:
                tokens = [shared.start - start, shared.stop - start]
                expected.append((step + 1, number, tokens))
    steps = [one for one in row["steps"] if one["step"] is not None]
    assert len(expected) >= 3
    assert sorted((s["step"], s["sample"], s["tokens"]) for s in steps) == sorted(expected)
    assert all(one.get("excluded", False) == (book == 1) for one in steps)
    assert found["copied"] == found["tokens"] == len(ids)
    # The other command reads the same sequence of that step.
    [back] = trained.trace("--step", steps[0]["step"], "--sample", steps[0]["sample"])
    first, end = steps[0]["tokens"]
    words = trained.tokenizer.decode(ids[first:end])
    assert (back["book"], words in back["window"]) == (row["book"], True)


def test_batches_that_a_rollback_skipped(trained: Trained) -> None:
    size = trained.config.batch_size
    book, start = trained.sampler.locate(SKIPPED[0] * size + 3)
    text = trained.text(book, start + 1, 9)
    found = trained.trace("--text", text, "--limit", 99)
    steps = [one for row in found["spans"][0]["places"] for one in row["steps"]]
    [skipped] = [one for one in steps if one["step"] is None]
    assert (skipped["epoch"], skipped["sample"]) == (1, 3)
    assert skipped["tokens"] == [0, found["tokens"]]
    printed = said("trace", "--text", text, "--limit", 99, *store_of(trained))
    assert "epoch 1: no step (sample 3, skipped by a rollback" in printed


def test_one_of_several_trainings(trained: Trained, tmp_path: Path) -> None:
    file, shards = tmp_path / "seeds.yaml", trained.sampler.shards
    alone, several = "    resources: {workers: 2, cpus: 1}", "    matrix: {seed: [1, 2]}"
    file.write_text(WORKFLOW.read_text().replace(alone, several))
    words, plan = ("--file", file, *store_of(trained)), plan_of(file, trained.plan.store.root)
    for seed in (1, 2):
        job = f"pretrain[seed={seed}]"
        config = plan.entries[job].cell.settings
        assert isinstance(config, PretrainConfig)
        publish_pretrain(plan, config, trained.tokenizer.vocabulary, job)
        [row] = gpt1("trace", "--step", 1, "--sample", 0, "--job", job, "--json", *words).json()
        book, start = SequenceSampler(shards, config.context, seed).locate(0)
        assert (row["book"], row["in_book"]["token"]) == (shards.spans[book].book, start)
        found = gpt1("trace", "--text", ", and the", "--job", job, "--json", *words).json()
        assert found["pretraining"] == job
    for what in (("--step", 1), ("--text", ", and the")):
        refused("choose one of .*seed=1.*seed=2.* with --job", "trace", *what, *words)


def test_the_place_in_the_cleaned_book(trained: Trained) -> None:
    spans = trained.sampler.shards.spans
    start, ids = trained.words(0, 100, 15)
    found = trained.trace("--text", trained.tokenizer.decode(ids))
    [row] = [row for row in found["spans"][0]["places"] if row["book"] == spans[0].book]
    at = row["in_book"]
    assert (at["token"], at["tokens"], at["of"]) == (start, len(ids), spans[0].length)
    marked = row["text"].partition("⟦")[2].partition("⟧")[0]
    assert len(marked) == at["to"] - at["character"]
    assert trained.tokenizer.decode(trained.tokenizer.encode(marked)) == found["spans"][0]["text"]
    for name in ("title", "author", "source"):
        assert row[name] == getattr(spans[0], name)


def test_held_out_text_is_marked(trained: Trained) -> None:
    shard = artifact(trained.plan, "shard")
    paths = [Path(file.key) for file in shard.under("held_out/")]
    shards = Shards.open(paths, output(shard, "books.parquet"), "held_out")
    text = trained.tokenizer.decode(shards.book(0)[50:90].tolist())
    found = trained.trace("--text", text)
    span = next(one for one in found["spans"] if one["set"] == "held_out")
    assert span["end"] - span["start"] > 30 > found["copied"]
    assert (span["places"][0]["book"], span["places"][0]["steps"]) == (shards.spans[0].book, None)
    assert "steps   none: held out" in said("trace", "--text", text, *store_of(trained))


def store_of(trained: Trained) -> tuple[str, Path]:
    return "--store", trained.plan.store.root


def test_short_texts_and_a_limit(trained: Trained) -> None:
    """Three tokens are looked for as they are; the text of the last line leads to all places."""
    text = ", and the"
    found = trained.trace("--text", text, "--limit", 2)
    [span] = [one for one in found["spans"] if one["set"] == "train"]
    assert (span["end"], len(span["places"]), span["count"] > 3) == (3, 2, True)
    more = f"{span['count'] - 2:,} more places: `gpt1 trace --limit {span['count']} --text ...`"
    assert more in said("trace", "--text", text, "--limit", 2, *store_of(trained))
    assert trained.trace("--text", "zebra quilt xylophone jazz")["spans"] == []
    refused("found 1 token, expected at least 3", "trace", "--text", "the", *store_of(trained))
    refused("at least 3 tokens", "trace", "--text", text, "--min-tokens", 2, *store_of(trained))
    refused("or --text", "trace", "--text", text, "--step", 2, *store_of(trained))


def test_the_index_is_built_once_and_outside_of_the_store(trained: Trained, cache: Path) -> None:
    words = ("trace", "--text", trained.text(0, 100, 15), *store_of(trained))
    before = sorted(trained.plan.store.root.rglob("*"))
    printed = said(*words)
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*8-1")}
    assert len(files) == 2
    assert said(*words) == printed
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*8-1")} == files
    assert sorted(trained.plan.store.root.rglob("*")) == before


def test_a_damaged_index_is_built_again_and_an_old_one_evicted(
    trained: Trained, cache: Path
) -> None:
    words = ("trace", "--text", trained.text(0, 100, 15), *store_of(trained))
    printed, files = said(*words), sorted(cache.rglob("*8-1"))
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0][:-8])
    files[1].write_bytes(b"")
    assert said(*words) == printed
    assert [file.read_bytes() for file in files] == contents
    os.utime(files[0], (0, 0))
    assert host_cache.evict(cache, len(contents[1]), grace=60) == len(contents[0])
    assert [file.exists() for file in files] == [False, True]
    assert said(*words) == printed


def test_generated_text_is_searched_for(trained: Trained) -> None:
    words = ("generate", "-p", "the old man", "-n", 20, "--trace", *store_of(trained))
    [line] = said(*words, "--json").splitlines()
    found = json.loads(line)["copied"]
    assert (found["tokens"] > 0, found["copied"], found["spans"]) == (True, 0, [])
    assert "copied  0 of" in said(*words)
    assert said(*words, "-p", "a second prompt").count("copied  0 of") == 2
    short = copied_text("pretrain", lambda: last_artifacts(trained.plan.store))(", and the")
    assert (short["copied"], short["min_tokens"]) == (0, 8), "as in the report"


def test_no_pretraining_to_search_the_books_of(tmp_path: Path) -> None:
    """Of a folder, of weights from elsewhere, and of a model that was fine-tuned from these."""
    store = Store.at(tmp_path / "store")
    for kind, inputs in (("pretrained", {}), ("finetune", {"pretrain": ["print"]})):
        outputs = Outputs(store, store.new_attempt(kind, "print"))
        assert publish_all(store, outputs, cell=kind, identity={"inputs": inputs})
    run = RunArtifacts(store, {kind: f"{kind}/print" for kind in ("pretrained", "finetune")}, "run")
    refuses(f"--trace: found the folder {tmp_path}, ", copied_text, str(tmp_path), lambda: run)
    for kind in run.cells:
        message = f"no pretrain job that led to {kind}; .* choose a job that has one"
        refuses(message, copied_text, kind, lambda: run)


def test_copied_text_names_its_first_place(trained: Trained) -> None:
    search = copied_text("pretrain", lambda: last_artifacts(trained.plan.store))
    start, ids = trained.words(2, 300, 30)
    found = search(trained.tokenizer.decode(ids) + " zebra quilt")
    span = found["spans"][0]
    [row] = span["places"]
    assert row["book"] == trained.sampler.shards.spans[2].book
    assert (row["in_book"]["token"], found["copied"]) == (start, len(ids))
    assert span["end"] == len(ids) < found["tokens"]
