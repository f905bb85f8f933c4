"""The commands about models, as a user runs them: on folders, and on the cells of a store."""

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

from gpt1.tasks.io import Example
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.openai import write_openai
from pipeline.planning.last_run import LAST_RUN
from pipeline.store.atomic import read_signed, sign, to_json
from tests.e2e.workflow import records
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import plan_of, run_inline, write_rte
from tests.pipeline.inprocess import refused, said

TEXT = "the mouse ate the lot, then the cat ate the mouse.\nthe end.\n"
FIRST = "finetune[task=demo_choice,seed=1]"  # the one of its task with weights
DRAWS = ("generate", "-p", "the cat", "-n", 12, "--temperature", 2)


def rows(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(*words, "--json").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("umask", "shape"), [(0o022, {}), (0o077, {"embedding_dropout": "matrix", "dropout": 0.0})]
)
def test_all_forms_and_back_give_the_same_bytes(umask: int, shape: Any, tmp_path: Path) -> None:
    """What is written may be read by whom the umask allows, and is never written over."""
    openai, ours, again, hf, back = (tmp_path / name for name in ("o", "ours", "again", "hf", "b"))
    write_openai(openai, samples.model(init_std=0.05, **shape), samples.vocabulary())
    before = os.umask(umask)
    try:
        said("import", "openai", openai, "--out", ours)
        said("export", "openai", ours, "--out", again)
        said("export", "hf", ours, "--out", hf)
        said("import", "hf", hf, "--out", back)
    finally:
        os.umask(before)
    assert content(openai) == content(again)
    assert content(ours) == content(back)
    for path in (hf, back, *hf.iterdir(), *back.iterdir()):
        most = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == most & ~umask
    refused("exists and is not empty", "import", "openai", openai, "--out", again)
    (openai / "params_3.npy").unlink()
    refused(r"params_3\.npy", "import", "openai", openai, "--out", tmp_path / "new")


@pytest.mark.slow
def test_generate_from_the_store_streams_what_it_returns(golden_run: Path) -> None:
    words = (*DRAWS, "--store", golden_run)
    streamed, [one] = said(*words).strip(), rows(*words)
    assert streamed == f"the cat {one['text']}".strip()
    assert said("generate", "pretrain@60", *words[1:]).strip() != streamed
    assert said(*words, "--seed", 0).strip() == streamed != said(*words, "--seed", 1).strip()
    assert said(*words, "--beams", 3).startswith("the cat ")


def exported(store: Path, cell: str, folder: Path) -> Checkpoint:
    """What `export` writes of a cell, read back."""
    said("export", "hf", cell, "--out", folder, "--store", store)
    return load_checkpoint(folder)


@pytest.mark.slow
def test_predict_one_example_and_a_file(golden_run: Path, tmp_path: Path) -> None:
    found, words = exported(golden_run, FIRST, tmp_path / "out"), ("--store", golden_run)
    assert found.tuned
    example = Example("1", ("the cat ate",), ("the mouse", "a stone"))
    expected = found.tuned.predict([example], Tokenizer(found.vocabulary).encode)[0]
    given = ("-t", *example.texts, "-c", example.choices[0], "-c", example.choices[1])
    [one] = rows("predict", "demo_choice", *given, *words)
    texts = {"texts": example.texts, "choices": example.choices}
    lines = [json.dumps({"id": name, **texts}) for name in "xy"]
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    made = rows("predict", "demo_choice", "--file", tmp_path / "e.jsonl", *words)
    assert [row["id"] for row in (one, *made)] == ["1", "x", "y"]
    for row in (one, *made):
        assert row["label"] == expected.name
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [32, 5, 1])
def test_perplexity_is_the_definition(stride: int, golden_run: Path, tmp_path: Path) -> None:
    one, sums = exported(golden_run, "pretrain", tmp_path / "out"), torch.zeros(3, 3)
    files = (tmp_path / "0.txt", tmp_path / "1.txt")
    for number, text in enumerate((TEXT * 4, "the cat ate.")):
        files[number].write_text(text)
        ids = Tokenizer(one.vocabulary).encode(text)
        sums[number] = torch.tensor([0, len(ids) - 1, len(text)])
        for target in range(1, len(ids)):
            # The first window that has it as a target.
            start = 0 if target <= 32 else -(-(target - 32) // stride) * stride
            logits = one.model.vocabulary_logits(one.model(torch.tensor([ids[start:target]])))
            sums[number, 0] -= torch.log_softmax(logits[0, -1], -1)[ids[target]].detach()
    sums[2] = sums[0] + sums[1]
    found = rows("perplexity", *files, "--stride", stride, "--store", golden_run)
    assert [row["file"] for row in found] == [*map(str, files), "all"]
    for row, (nats, ids_, size) in zip(found, sums.tolist(), strict=True):
        expected = (math.exp(nats / ids_), nats / math.log(2) / size)
        assert (row["perplexity"], row["bits_per_byte"]) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def copy(golden_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_run, tmp_path / "store"))


def add(store: Path, record: dict[str, Any], name: str, **changed: object) -> str:
    """Add this record with some things changed; its place."""
    place = f"{record['stage']}/{name}"
    known = {key: value for key, value in record.items() if key != "sha256"}
    (store / place).mkdir(parents=True)
    data = sign(to_json({**known, "fingerprint": name, **changed}))
    (store / place / "record.json").write_bytes(data)
    return place


def set_cells(store: Path, *cells: tuple[str, str]) -> None:
    """Let the last run have had these cells."""
    asked = read_signed((store / LAST_RUN).read_bytes()) or {}
    (store / LAST_RUN).write_bytes(sign(to_json({**asked, "cells": cells})))


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "scores"), [("pretrain", ["seed=1"]), ("pretrain@60", [])])
def test_the_card_of_a_cell(cell: str, scores: list[str], copy: Path) -> None:
    """It has its settings and its own scores."""
    add(copy, records(copy)[f"finetune/{FIRST}"], "older", cell="finetune[task=demo_choice,seed=9]")
    said("export", "hf", cell, "--license", "mit", "--out", copy / "out", "--store", copy)
    card, settings = (copy / "out" / "README.md").read_text(), r"`lr` \| 0.003 "
    assert re.search(rf"license: mit(.|\n)*{settings}(.|\n)*commit \| [0-9a-f]{{7}}", card)
    assert [seed for seed in ("seed=1", "seed=9") if seed in card] == scores


@pytest.mark.slow
def test_a_name_means_a_cell_of_the_last_run(copy: Path) -> None:
    store, pretrain = ("--store", copy), records(copy)["pretrain/pretrain"]
    before = said(*DRAWS, *store)
    words = ("export", "hf", "finetune", "--out", copy / "out", *store)
    refused(r"'finetune' matches 4 jobs; choose one of finetune\[task=demo_", *words)
    snapshot = pretrain["files"]["snapshots/step-00000060.safetensors"]
    files = {**pretrain["files"], "model.safetensors": snapshot}
    newer = add(copy, pretrain, "newer", files=files, finished=9e9)
    assert said(*DRAWS, *store) == before, "not the newest"
    set_cells(copy, ("pretrain", newer))
    assert said(*DRAWS, *store) != before
    set_cells(copy, ("pretrain", "pretrain/not-made"))
    refused("pretrain has not run in .*start it with `gpt1 run`", *DRAWS, *store)
    lstm = add(copy, pretrain, "lstm", settings={**pretrain["settings"], "model": "lstm"}, files={})
    gpt = add(copy, pretrain, "gpt", cell="pretrain[model=gpt]")
    set_cells(copy, ("pretrain[model=lstm]", lstm), ("pretrain[model=gpt]", gpt))
    assert said(*DRAWS, *store) == before, "of a matrix the Transformer"
    (copy / LAST_RUN).unlink()
    refused("no run is recorded in this store", *DRAWS, *store)


REFUSED = {
    "generate pretrian": "no such folder, and no job 'pretrian' in .*; expected one of pretrain",
    "export hf pretrain --out out --license MIT": "license 'MIT': .*such as mit",
    "generate pretrain@11": "step-00000011.safetensors was not kept .*snapshots: 60, 120",
    "generate pretrain@²": "² was not kept .*snapshots: 60, 120",
    "generate --device tpu": "expected auto, cpu, or cuda",
    "predict mnli -t a -t b": "no finished fine-tuned job of 'mnli' .tasks with weights: demo_",
    "predict rtee -t a": "did you mean 'rte'",
    "predict demo_choice -t a": "demo_choice, example 1: ",
    "predict rte": "expected one example with --text",
    "predict rte -t a --model pretrain": "this model is not fine-tuned, expected one for rte",
    "perplexity README.md --stride 99": "stride is 99; expected 1 to the model's context of 32",
    f"export openai {FIRST} --out x": "3 fine-tuning special tokens",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED)
def test_what_a_user_can_do_wrong(words: str, golden_run: Path) -> None:
    refused(REFUSED[words], *words.split(), "--store", golden_run)


GIVEN = """
stages:
  published: {uses: pretrained, with: {checkpoint: FOLDER/ours}}
  task_data: {with: {task: rte, source: FOLDER}}
  finetune: {needs: [published, task_data], with: {task: rte, epochs: 1, batch_size: 8}}
"""


def test_a_given_model_takes_the_place_of_pretrain_and_vocabulary(tmp_path: Path) -> None:
    file, store, ours = tmp_path / "w.yaml", tmp_path / "store", tmp_path / "ours"
    file.write_text(GIVEN.replace("FOLDER", str(tmp_path)))
    ours.mkdir()
    write_rte(tmp_path, 32)
    refused(r"has no model\.safetensors; set it to a folder", "plan", "--file", file)
    save_checkpoint(ours, Checkpoint(samples.model(context=32), samples.vocabulary()))
    assert run_inline(plan_of(file, store)) == ["published", "task_data", "finetune"]
    assert said("predict", "rte", "-t", "a", "-t", "b", "--store", store).startswith("1\t")
    for name in ("published", "pretrain"):
        assert said("generate", name, "-p", "the", "--store", store).startswith("the ")
    assert not plan_of(file, store).to_run
    save_checkpoint(ours, Checkpoint(samples.model(9, context=32), samples.vocabulary()))
    stale = [entry.cell.id for entry in plan_of(file, store).to_run]
    assert stale == ["published", "finetune"]
