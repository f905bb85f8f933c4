"""The commands about models, as a user runs them: on folders, and on the cells of a store."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.tasks.example import Example
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.openai import write_openai
from pipeline.last_run import LAST_RUN
from tests.conftest import ROOT
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import artifact, plan_of, run_inline
from tests.pipeline.inprocess import Ended
from tests.pipeline.inprocess import gpt1 as command

TEXTS = ("the mouse ate the lot, then the cat ate the mouse.\nthe end.\n" * 4, "the cat ate.")
FIRST = "finetune[task=demo_choice,seed=1]"  # the one of its task with weights
DRAWS = ("generate", "-p", "the cat", "-n", 12, "--temperature", 2)


def gpt1(*words: object) -> str:
    ended = command(*words, cwd=ROOT)
    assert ended.status == 0, ended
    return ended.out


def rows(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gpt1(*words, "--json").splitlines()]


def refused(message: str, *words: object) -> Ended:
    ended = command(*words, cwd=ROOT)
    assert (ended.status, bool(re.search(message, ended.err))) == (2, True), ended
    return ended


def same_files(one: Path, other: Path) -> bool:
    return {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_forms_and_back_give_the_same_bytes(umask: int, tmp_path: Path) -> None:
    """What is written may be read by whom the umask allows."""
    before = os.umask(umask)
    try:
        write_openai(tmp_path / "openai", samples.model(), samples.vocabulary())
        said = gpt1("import", "openai", tmp_path / "openai", "--out", tmp_path / "ours")
        assert f"{samples.model().config.parameters():,} parameters" in said
        gpt1("export", "openai", tmp_path / "ours", "--out", tmp_path / "again")
        gpt1("export", "hf", tmp_path / "ours", "--out", tmp_path / "hf")
        gpt1("import", "hf", tmp_path / "hf", "--out", tmp_path / "back")
    finally:
        os.umask(before)
    assert same_files(tmp_path / "openai", tmp_path / "again")
    assert same_files(tmp_path / "ours", tmp_path / "back")
    for folder in (tmp_path / "hf", tmp_path / "back"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
        modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
        assert modes == {0o666 & ~umask}


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_openai(tmp_path / "openai", samples.model(), samples.vocabulary())
    words = ("import", "openai", tmp_path / "openai", "--out")
    refused("exists and is not empty", *words, tmp_path / "openai")
    (tmp_path / "openai" / "params_3.npy").unlink()
    refused(r"params_3\.npy", *words, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["openai"]


@pytest.mark.slow
def test_generate_from_the_store_streams_what_it_returns(golden_run: Path) -> None:
    words = (*DRAWS, "--store", golden_run)
    streamed = gpt1(*words).strip()
    [one] = rows(*words)
    assert streamed == f"the cat {one['text']}".strip()
    assert [row["prompt"] for row in rows(*words, "-p", "a mouse")] == ["the cat", "a mouse"]
    assert gpt1("generate", "pretrain@60", *words[1:]).strip() != streamed
    assert gpt1(*words, "--seed", 0).strip() == streamed != gpt1(*words, "--seed", 1).strip()
    assert gpt1(*words, "--beams", 3).startswith("the cat ")


def model_of(store: Path, cell: str) -> Checkpoint:
    """What `export` writes of a cell, read back."""
    folder = store.parent / f"{cell}-exported"
    if not folder.exists():
        gpt1("export", "hf", cell, "--out", folder, "--store", store)
    return load_checkpoint(folder)


@pytest.mark.slow
def test_predict_one_example_and_a_file(golden_run: Path, tmp_path: Path) -> None:
    found = model_of(golden_run, FIRST)
    assert found.tuned is not None
    example = Example("1", ("the cat ate",), ("the mouse", "a stone"))
    expected = found.tuned.predict([example], TextEncoder(found.vocabulary).encode)[0]
    words, store = ("predict", "demo_choice"), ("--store", golden_run)
    choices = [word for choice in example.choices for word in ("-c", choice)]
    said = gpt1(*words, "-t", "the cat ate", *choices, *store)
    assert said.split("\t")[:2] == ["1", expected.name]
    texts = {"texts": example.texts, "choices": example.choices}
    lines = "".join(json.dumps({"id": name, **texts}) + "\n" for name in "xy")
    (tmp_path / "examples.jsonl").write_text(lines)
    found_rows = rows(*words, "--file", tmp_path / "examples.jsonl", *store)
    assert [(row["id"], row["label"]) for row in found_rows] == [(n, expected.name) for n in "xy"]
    assert found_rows[0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [32, 5, 1])
def test_perplexity_is_the_definition(stride: int, golden_run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, text in zip(files, TEXTS, strict=True):
        file.write_text(text)
    found = rows("perplexity", *files, "--stride", stride, "--store", golden_run)
    one = model_of(golden_run, "pretrain")
    nats, count, size = [0.0, 0.0], [0, 0], [len(text) for text in TEXTS]
    for number, text in enumerate(TEXTS):
        ids = TextEncoder(one.vocabulary).encode(text)
        count[number] = len(ids) - 1
        for target in range(1, len(ids)):
            # The first window that has it as a target.
            start = 0 if target <= 32 else -(-(target - 32) // stride) * stride
            with torch.no_grad():
                hidden = one.model(torch.tensor([ids[start:target]]))
            logits = one.model.vocabulary_logits(hidden)[0, -1]
            nats[number] -= float(torch.log_softmax(logits, -1)[ids[target]].detach())
    for sums in (nats, count, size):
        sums.append(sum(sums))
    assert [row["file"] for row in found] == [*map(str, files), "all"]
    for row, n, c, s in zip(found, nats, count, size, strict=True):
        assert row["perplexity"] == pytest.approx(math.exp(n / c), rel=1e-4)
        assert row["bits_per_byte"] == pytest.approx(n / math.log(2) / s, rel=1e-4)


@pytest.fixture
def copy(golden_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_run, tmp_path / "store"))


def record_of(store: Path, cell: str) -> Path:
    found = {json.loads(path.read_text())["cell"]: path for path in store.glob("*/*/record.json")}
    return found[cell]


def add(store: Path, path: Path, name: str, **changed: object) -> str:
    """A record as that of `path` with some things changed; its place."""
    folder = path.parents[1] / name
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder.relative_to(store).as_posix()


def set_cells(store: Path, **cells: str) -> None:
    """Let the last run have had these cells."""
    asked = json.loads((store / LAST_RUN).read_text())
    (store / LAST_RUN).write_text(json.dumps({**asked, "cells": list(cells.items())}))


@pytest.mark.slow
def test_the_card_of_a_cell_names_its_settings_and_its_own_scores(copy: Path) -> None:
    add(copy, record_of(copy, FIRST), "older", cell="finetune[task=demo_choice,seed=9]")
    out = copy.parent

    def card(cell: str, name: str, *words: object) -> str:
        gpt1("export", "hf", cell, "--out", out / name, "--store", copy, *words)
        return (out / name / "README.md").read_text()

    assert "license: mit" in card("pretrain@60", "snapshot", "--license", "mit")
    text = card("pretrain", "hf")
    assert ("| `max_lr` | 0.003 |" in text, "license:" in text) == (True, False)
    assert ("seed=1" in text, "seed=9" in text) == (True, False)
    assert re.search(r"\| commit \| [0-9a-f]{7}", text)
    assert "| pretrain |" in card(FIRST, "tuned"), "among the cells behind it"


@pytest.mark.slow
def test_a_name_means_a_cell_of_the_last_run(copy: Path) -> None:
    store, pretrain = ("--store", copy), record_of(copy, "pretrain")
    before, record = gpt1(*DRAWS, *store), json.loads(pretrain.read_text())
    words = ("export", "hf", "finetune", "--out", copy / "out", *store)
    refused(r"'finetune' could mean 4 cells; name one of finetune\[task=demo_", *words)
    snapshot = record["files"]["snapshots/step-00000060.safetensors"]
    files = {**record["files"], "model.safetensors": snapshot}
    newer = add(copy, pretrain, "newer", files=files, finished=9e9)
    assert gpt1(*DRAWS, *store) == before, "not the newest"
    set_cells(copy, pretrain=newer)
    assert gpt1(*DRAWS, *store) != before
    set_cells(copy, pretrain="pretrain/not-made")
    refused("pretrain not made in .*make it with `gpt1 run`", *DRAWS, *store)
    other: Any = {"settings": {**record["settings"], "model": "lstm"}, "files": {}}
    gpt = add(copy, pretrain, "gpt", cell="pretrain[model=gpt]")
    lstm = add(copy, pretrain, "lstm", cell="pretrain[model=lstm]", **other)
    set_cells(copy, **{"pretrain[model=lstm]": lstm, "pretrain[model=gpt]": gpt})
    assert gpt1(*DRAWS, *store) == before, "of a matrix the Transformer"
    (copy / LAST_RUN).unlink()
    refused("no run is recorded in this store", *DRAWS, *store)


@pytest.mark.slow
def test_without_weights_the_message_says_how_to_keep_them(copy: Path) -> None:
    record = record_of(copy, FIRST)
    record.write_text(json.dumps({**json.loads(record.read_text()), "files": {}}))
    words = ("predict", "demo_choice", "-t", "a", "-c", "b", "-c", "c", "--store", copy)
    refused(r"none with its weights .*--set finetune\.keep_model=true", *words)
    refused(r"model\.safetensors was not kept .*`keep_model: true`", *words, "--model", FIRST)


REFUSED = {
    "generate pretrian": "no such folder, and no cell 'pretrian' in .*; expected one of pretrain",
    "export hf pretrain --out out --license MIT": "license 'MIT': expected .*such as mit",
    "generate pretrain@11": "step-00000011.safetensors was not kept .*snapshots: 60, 120",
    "generate --device tpu": "expected auto, cpu or cuda",
    "generate --top-p 0": "top_p is 0.0, expected more than 0",
    "generate --temperature -1": "temperature is -1.0, expected 0 or more",
    "generate --tokens 0": "tokens is 0, expected at least 1",
    "predict mnli -t a -t b": "no fine-tuned cell of 'mnli' is made .tasks with weights: demo_",
    "predict rtee -t a": "did you mean 'rte'",
    "predict demo_choice -t a": "demo_choice, example 1: ",
    "predict rte": "give one example with --text",
    "predict rte -t a --model pretrain": "this model is not fine-tuned, expected rte",
    "perplexity no-such-file.txt": "cannot be read",
    "perplexity README.md --stride 99": "--stride 99: expected 1 to the model's context of 32",
    f"export openai {FIRST} --out x": "3 special tokens",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED)
def test_what_a_user_can_do_wrong(words: str, golden_run: Path) -> None:
    refused(REFUSED[words], *words.split(), "--store", golden_run)


def test_another_vocabulary_in_a_folder_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(samples.model(), samples.vocabulary()))
    for name in samples.vocabulary().file_names:
        (tmp_path / name).unlink()
    Vocabulary.from_merges(list("abc"), []).save(tmp_path)
    refused("60 vocabulary rows, .* 8 tokens; this is another model's", "generate", tmp_path)


GIVEN = """
stages:
  published: {uses: given, with: {checkpoint: FOLDER/ours}}
  task_data: {with: {task: rte, source: FOLDER}}
  finetune: {needs: [published, task_data], with: {task: rte, epochs: 1, batch: 8}}
  export: {needs: [published, finetune]}
"""


def test_a_given_model_takes_the_place_of_pretrain_and_vocabulary(tmp_path: Path) -> None:
    file, store = tmp_path / "w.yaml", tmp_path / "store"
    file.write_text(GIVEN.replace("FOLDER", str(tmp_path)))
    (tmp_path / "ours").mkdir()
    (tmp_path / "RTE").mkdir()
    refused(r"has no model\.safetensors; give a folder that `gpt1 import`", "plan", "--file", file)
    save_checkpoint(tmp_path / "ours", Checkpoint(samples.model(context=32), samples.vocabulary()))
    lines = "index\tsentence1\tsentence2\tlabel\n" + "".join(
        f"{n}\tthe cat {n} ate.\tit ate.\t{'' if n % 3 else 'not_'}entailment\n" for n in range(32)
    )
    for split in ("train", "dev"):
        (tmp_path / "RTE" / f"{split}.tsv").write_text(lines)
    plan = plan_of(file, store)
    assert run_inline(plan) == ["published", "task_data", "finetune", "export"]
    models = {"hf": "gpt1", "tuned/finetune": "gpt1-rte"}
    assert artifact(plan, "export").summary["models"] == models
    words = ("predict", "rte", "-t", "the cat", "-t", "it ate", "--store", store)
    assert gpt1(*words).startswith("1\t")
    for name in ("published", "pretrain"):
        assert gpt1("generate", name, "-p", "the", "-n", 3, "--store", store).startswith("the ")
    assert not plan_of(file, store).to_run
    other = Checkpoint(samples.model(9, context=32), samples.vocabulary())
    save_checkpoint(tmp_path / "ours", other)
    stale = {entry.cell.id for entry in plan_of(file, store).to_run}
    assert stale == {"published", "finetune", "export"}
