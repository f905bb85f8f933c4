"""The report's first screen and its picture of the workflow: what ran, what was cached, how long, how far, from where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt1.report.distance import share
from gpt1.wording import span
from pipeline.context import Job, run_cell
from pipeline.store import Store
from stages.contract import Artifact, Resources
from stages.report import ReportSettings
from tests.stages.report_samples import Workshop
from tests.stages.test_report import Silent, checked

EARLIER, NOW = "20260101-100000-aaaa", "20260102-100000-bbbb"
NEEDS = {
    "clean": ["ingest"], "split": ["clean"], "vocabulary": ["split"], "shard": ["vocabulary"], "pretrain": ["shard"],
    "finetune": ["pretrain", "encode[task=race]"],  # the latter is no input of the report
}  # fmt: skip


def timed(artifacts: list[Artifact]) -> list[Artifact]:
    """As if an earlier run had made the corpus and this one the rest: ten seconds each, pre-training on two ranks with a GPU."""
    made = []
    for number, artifact in enumerate(artifacts):
        corpus = artifact.stage in ("ingest", "clean", "split", "vocabulary", "shard")
        ranks = (
            {"workers": 2, "cpus": 1.0, "gpus": 1.0}
            if artifact.stage == "pretrain"
            else {"workers": None, "cpus": 1.0, "gpus": 0.0}
        )
        about: dict[str, Any] = {
            "run": EARLIER if corpus else NOW, "started": 1000.0 + 10 * number, "finished": 1010.0 + 10 * number, "seconds": 10.0,
            "resources": ranks, "parts": {"made": 3, "reused": 1}, "git_commit": "c0ffee", "packages": {"torch": "2.13.0"},
            "mlflow_run_id": "f" * 32, "inputs": dict.fromkeys(NEEDS.get(artifact.stage, ["pretrain"]), "0"),
        }  # fmt: skip
        made.append(replace(artifact, provenance=about if artifact.stage != "ingest" else {**about, "inputs": {}}))
    return made


def report(folder: Path, artifacts: list[Artifact], run: str = NOW) -> Artifact:
    store = Store.at(folder)
    settings = ReportSettings().model_dump()
    run_cell(Job(store, "report", "report", "0" * 64, {}, settings, tuple(artifacts), (), Resources(), run), Silent())
    found = store.artifact("report", "0" * 64)
    assert found is not None
    return found


def making(made: Artifact) -> Mapping[str, Any]:
    return json.loads(made.path("making.json").read_text())


def test_the_first_screen_answers_five_questions(tmp_path: Path) -> None:
    page = checked(report(tmp_path / "store", timed(Workshop(tmp_path / "work").everything()))).text
    head = page[: page.index("Perplexity for each token")]
    for said in (
        "Did it learn?", "Yes", "below the bigram model", "How far from the paper?", "1/87 of its size",
        "None of the paper's 12 tasks", "Where did the data come from?", "61 books",
        "The folder or file 'books'", "What ran, what was cached?", "11 ran, 5 cached",
        "Taken as earlier runs had made it: ingest, clean, split, vocabulary, shard", "How long, how costly?", "1 min 50 s",
        "20.0 s of a GPU",
    ):  # fmt: skip
        assert said in head, said


def test_what_a_run_used(tmp_path: Path) -> None:
    found = making(report(tmp_path / "store", timed(Workshop(tmp_path / "work").everything())))
    assert (found["made"], found["taken"], found["wall_seconds"]) == (11, 5, 110.0)
    assert (found["core_seconds"], found["gpu_seconds"], found["all_core_seconds"]) == (120.0, 20.0, 170.0)


def test_the_picture_shows_made_and_cached_with_their_cost(tmp_path: Path) -> None:
    made = report(tmp_path / "store", timed(Workshop(tmp_path / "work").everything()))
    name = "{http://www.w3.org/2000/svg}"
    svg = ElementTree.fromstring(made.path("figures/workflow.svg").read_text())
    said = {group.findtext(f"{name}text"): [text.text for text in group.iter(f"{name}text")] for group in svg.iter(f"{name}g")}
    assert said["clean"] == ["clean", "cached", "10.0 s", "core 10.0 s"]
    assert said["pretrain"] == ["pretrain", "made", "10.0 s", "GPU 20.0 s"]
    assert said["finetune x6"] == ["finetune x6", "made", "60.0 s", "core 60.0 s"]
    assert len(list(svg.iter(f"{name}path"))) == 8


def test_times_do_not_change_the_digest(tmp_path: Path) -> None:
    work = Workshop(tmp_path / "work").everything()
    one, two = report(tmp_path / "one", timed(work)), report(tmp_path / "two", work, run="")
    assert one.digest == two.digest
    assert one.path("report.html").read_bytes() != two.path("report.html").read_bytes()


def test_throughput_and_compute_beside_the_papers(tmp_path: Path) -> None:
    work = Workshop(tmp_path / "work")
    work.pretrain()
    rows = [{"step": step, "tokens_per_second": 1000.0 + step, "tflops": (1000.0 + step) * 6e-6} for step in (10, 20, 30)]
    (work.place("pretrain") / "throughput.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pretrain = work.pretrain()
    files = {name: replace(file, volatile=name == "throughput.jsonl") for name, file in pretrain.files.items()}
    made = report(tmp_path / "store", [*work.corpus(), replace(pretrain, files=files)])
    speed = making(made)["speed"]["pretrain"]
    assert speed["tokens_per_second"] == 1020
    assert speed["petaflop_days"] == pytest.approx(1_638_400 * 6e6 / 86400e15)
    assert made.files["figures/throughput.svg"].volatile
    assert "1,020 tokens a second" in checked(made).text


def test_addresses_are_told_without_what_may_be_secret(tmp_path: Path) -> None:
    ingest = replace(
        Workshop(tmp_path / "work").corpus()[0], settings={"source": ["s3://key:secret@bucket/books?token=1", "/home/me/mine.zip"]}
    )
    page = checked(report(tmp_path / "store", [ingest, Workshop(tmp_path / "work").pretrain()])).text
    assert "s3://bucket/books, The folder or file 'mine.zip'" in page
    assert "secret" not in page
    assert "/home/me" not in page


@pytest.mark.parametrize(
    ("value", "text"), [(1 / 107, "1/107"), (1 / 7_405_993, "1/7.41 million"), (0.98, "98 %"), (1.5, "1.5 times")]
)
def test_shares(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.63, "44.6 s"), (163, "2 min 43 s"), (11_100, "3 h 05 min"), (2_600_000, "30.1 days"), (None, "–")]
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text
