"""The report: its figures are the records', the same bytes each time, whatever a workflow has."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt1.format import number, share, short, span
from gpt1.report.charts import Chart, Line, draw
from gpt1.report.render import environment
from gpt1.tasks.metrics import GLUE_METRICS
from gpt1.tasks.registry import TASKS
from pipeline.planning.planner import Plan
from stages.contract import Artifact
from stages.report import ReportSettings
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.pipeline.inline import output, plan_of
from tests.stages import runs
from tests.stages.report_samples import Workshop
from tests.stages.runs import document, lines, made, run_stage

SVG = "{http://www.w3.org/2000/svg}"
SECTIONS = {"pre-training", "tasks", "transfer", "zero-shot", "samples", "corpus", "provenance"}


def report(store: Path, inputs: Sequence[Artifact], run: str = "", title: str = "") -> Artifact:
    return run_stage(ReportSettings(title=title or "GPT-1"), inputs, store, run=run)


def results(artifact: Artifact) -> dict[str, Any]:
    return document(artifact, "results.json")


def page(artifact: Artifact) -> tuple[str, set[str]]:
    """The page's text and the ids of its elements; it fetches nothing and runs nothing."""
    html = output(artifact, "report.html").read_text()
    links = re.findall(r'\b(?:xlink:href|href|src)="([^"]*)"', html)
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"<(?:script|iframe|object)|@import|url\((?!#)", html)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html)).split()), set(ids)


def boxes(artifact: Artifact) -> list[list[str | None]]:
    """The texts of each box in the picture of the workflow."""
    drawn = ElementTree.parse(output(artifact, "figures/workflow.svg"))
    return [[one.text for one in group.iter(f"{SVG}text")] for group in drawn.iter(f"{SVG}g")]


def test_the_copied_share_of_each_sample(
    embedded: Plan, work: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a passage of a training book, and of a text that no book has; and of held-out text."""
    shard, learned = made(embedded, "shard"), made(embedded, "vocabulary")
    passage = runs.training_texts(embedded)[0][5000:5200].split(" ", 1)[1].rpartition(" ")[0]
    rows = [{"step": 9, "prompt": "p", "text": text} for text in (passage, "zebra " * 12)]
    settings, files = {"sample_tokens": 30}, {"samples.jsonl": rows}
    pretrain = work.artifact("pretrain", files=files, settings=settings)
    made_of = report(tmp_path / "store", [shard, learned, pretrain])
    text, _ = page(made_of)
    assert re.findall(r"copied: ([\d.]+) %", text) == ["100.0", "0.0"]
    [mean] = re.findall(r"in held-out text of the same length it is ([\d.]+) %", text)
    assert 0 < float(mean) < 10
    markdown = output(made_of, "report.md").read_text()
    assert markdown.count("(copied: ") == 2
    assert f"it is\n{mean} %" in markdown
    others = replace(shard, cell="shard[merges=9]", fingerprint="another")
    several = report(tmp_path / "several", [shard, others, learned, pretrain])
    assert "copied" not in page(several)[0].lower(), "which shards it read is not known here"
    monkeypatch.setattr("gpt1.report.copied.MOST_TOKENS", 1000)
    monkeypatch.setattr("gpt1.report.copied._shards", None)
    assert "copied" not in page(report(tmp_path / "large", [shard, learned, pretrain]))[0].lower()


@pytest.fixture(scope="module")
def golden(golden_run: Path) -> Plan:
    return plan_of(MINI, golden_run)


def scores_of(plan: Plan, stage: str) -> list[dict[str, Any]]:
    names = [name for name, one in plan.entries.items() if one.cell.uses == stage]
    return [document(made(plan, name), "scores.json") for name in names]


@pytest.mark.slow
def test_every_figure_is_that_of_the_records(golden: Plan) -> None:
    found, pretrain = results(made(golden, "report")), made(golden, "pretrain")
    [cell] = found["pretraining"]["cells"]
    name, unigram = "validation_perplexity", made(golden, "shard").summary["unigram_perplexity"]
    figures = [cell["held_out_perplexity"], cell["share_of_unigram"] * unigram]
    assert figures == pytest.approx([pretrain.summary[name]] * 2)
    curve = [(r["step"], r[name]) for r in lines(pretrain, "metrics.jsonl") if name in r]
    assert [(point["step"], point["perplexity"]) for point in cell["curve"]] == curve
    assert (curve[0][0], cell["initial_perplexity"]) == (0, curve[0][1])
    assert cell["bits_per_byte"] == pretrain.summary["validation_bits_per_byte"]
    assert len(found["tasks"]) == 2
    tuned = scores_of(golden, "finetune")
    cells = [one for one in tuned if "num_layers_transferred" in one]
    for row in found["tasks"]:
        scores = [one for one in tuned if one["task"] == row["task"] and one not in cells]
        values = [one["values"]["accuracy"] for one in scores]
        spread = [row[name] for name in ("runs", "lowest", "highest", "score")]
        assert spread == [2, min(values), max(values), statistics.median(values)]
    transfer = {row["num_layers_transferred"]: row["score"] for row in found["transfer"]}
    assert transfer == {one["num_layers_transferred"]: one["values"]["accuracy"] for one in cells}
    [zero_shot] = found["zero_shot"]
    curve = [(r["step"], r["accuracy"]) for r in lines(made(golden, zero_shot["cell"]), "curve")]
    assert [(point["step"], point["score"]) for point in zero_shot["points"]] == curve
    assert found["corpus"]["rejected"] == made(golden, "clean").summary["rejected"]


@pytest.mark.slow
def test_every_section_is_there_and_no_path(golden: Plan, golden_run: Path) -> None:
    """tests/e2e/test_kills.py compares its bytes with those of a report made again elsewhere."""
    whole = made(golden, "report")
    text = "".join(Path(file.key).read_text() for file in whole.files.values())
    assert not [path for path in (golden_run, ROOT) if str(path) in text]
    words, ids = page(whole)
    assert ids >= SECTIONS
    assert all(name in words for name in ("max_steps", "batch_size", " ranks of ", "commit "))
    assert {box[0] for box in boxes(whole) if box} >= {"ingest", "finetune x4", "transfer x3"}


PARTS = [
    ("pretrain", ["Held-out perplexity 121.4 "]), ("corpus pretrain", ["23 % of the unigram "]),
    ("pretrain tasks", ["Held-out", "2 of 2 tasks beat"]),
    ("pretrain lstm", ["Pretrain: held-out", "Pretrain[lstm]: held-out"]), ("nothing", []),
]


@pytest.mark.parametrize(("kinds", "verdict"), PARTS)
def test_what_is_missing_is_left_out(kinds: str, verdict: list[str], work: Workshop) -> None:
    everything = {
        "corpus": work.corpus(), "pretrain": [work.pretrain()], "tasks": work.tasks(),
        "lstm": [work.pretrain("pretrain[lstm]", 150.0, model="lstm")],
        "nothing": [work.artifact("pretrain", "pretrain[untrained]")],
    }  # fmt: skip
    inputs = [one for kind in kinds.split() for one in everything[kind]]
    artifact, of_tasks = report(work.folder, inputs), {"tasks", "zero-shot"}
    said = results(artifact)["verdict"]
    assert all(part in one for part, one in zip(verdict, said, strict=True))
    assert page(artifact)[1] & of_tasks == (of_tasks if "tasks" in kinds else set())


def test_what_cannot_be_compared_and_what_is_secret(work: Workshop, tmp_path: Path) -> None:
    source = ["s3://key:secret@bucket/books?token=1", "/home/me/mine.zip"]
    inputs = [*work.corpus(source), work.pretrain(), *work.tasks()]
    artifact = report(tmp_path, inputs, title="Mine & <yours>\x1b[2J")
    text, _ = page(artifact)
    expected = ["without saying that it was held", "Mine & <yours>", "QNLI in its second version"]
    expected += ["she looked at him & said <b>", "s3://bucket/books, The folder or file 'mine.zip'"]
    assert not [words for words in expected if words not in text]
    files = "".join(Path(file.key).read_text() for file in artifact.files.values())
    assert not [word for word in ("secret", "token=1", "/home/me", "\x1b") if word in files]


def test_what_this_run_made_and_what_it_took(work: Workshop, tmp_path: Path) -> None:
    """An earlier run made the corpus, this one pre-trained on two ranks with a GPU each."""
    about: dict[str, Any] = {"seconds": 10.0, "finished": 10.0, "resources": {}}
    corpus = [replace(one, provenance={**about, "run": "earlier"}) for one in work.corpus()]
    pretrain, name = work.pretrain(), "throughput.jsonl"
    files = {**pretrain.files, name: replace(pretrain.files[name], volatile=True)}
    about |= {"run": "now", "started": 2.0, "resources": {"workers": 2, "gpus": 1.0}}
    about["inputs"] = {"shard": "0", "encode": "0"}  # the latter is no input of the report
    inputs = [*corpus, replace(pretrain, files=files, provenance=about)]
    now, later = (report(tmp_path / run, inputs, run=run) for run in ("now", "later"))
    found = document(now, "making.json")
    assert [found[name] for name in ("made", "taken", "wall_seconds")] == [1, 4, 8.0]
    assert [found[f"{name}_seconds"] for name in ("core", "gpu", "all_core")] == [20.0, 20.0, 60.0]
    days = pytest.approx(1_638_400 * 6e9 / 1030 / 86400e15)
    assert found["speed"]["pretrain"] == {"tokens_per_second": 1020, "petaflop_days": days}
    assert ["shard", "cached", "10.0s"] in boxes(now)
    assert ["pretrain", "ran", "10.0s", "GPU time 20.0s"] in boxes(now)
    assert now.digest == later.digest


def test_the_figures_of_the_previous_run(work: Workshop, tmp_path: Path) -> None:
    """Of the same store, in the pages alone: a report's digest does not depend on it."""
    same = [report(tmp_path, [work.pretrain(final=100.0)], run=run) for run in ("first", "second")]
    assert same[0].digest == same[1].digest
    compared = "Compared with the previous run"
    assert [compared in page(one)[0] for one in same] == [False, True]
    text, _ = page(report(tmp_path, [work.pretrain(final=90.5), *work.tasks()], run="third"))
    assert "run second . " in text
    assert "pretrain: held-out perplexity 100 90.5 -9.5 " in text
    assert "tasks above baseline 0 2 +2" in text


def test_what_a_rule_changed_is_marked() -> None:
    mark = environment().filters["mark"]
    row = {"before": "the <old>\r\n man\u200b\u00ad sat", "after": "the <old>\n woman sat"}
    assert mark(row, "before") == (
        "the &lt;old&gt;<del>\\r</del>\n <del>manU+200BU+00AD</del> sat"
    )
    assert mark(row, "after") == "the &lt;old&gt;\n <ins>woman</ins> sat"


def of_paper(work: Workshop, task: str, seed: int, shift: float, variant: str = "full") -> Artifact:
    """A cell of which every metric is the paper's plus `shift`."""
    metric = TASKS[task].metrics[0]
    values = {name: value + shift for name, value in TASKS[task].paper.items()}
    values.setdefault(metric, sum(values.values()) / len(values))
    more = {"metric": metric, "values": values, "train_rows": 100, "official_rows": {"train": 900}}
    return work.scored({"task": task, "variant": variant, "seed": seed}, 0.0, sample=True, **more)


def test_the_paper_s_tables_with_our_medians(work: Workshop, tmp_path: Path) -> None:
    shifts = [("rte", 1, -9.0), ("rte", 2, 3.0), ("rte", 3, 1.0), ("cola", 1, 0.5)]
    inputs = [work.pretrain(), *(of_paper(work, *row) for row in shifts)]
    inputs.append(of_paper(work, "rte", 1, -5.0, "no_pretraining"))
    artifact = report(tmp_path, inputs)
    tables = {table["number"]: table for table in results(artifact)["tables"]}
    assert [number for number, table in tables.items() if table["ours"]] == [2, 4, 5]
    ours = [tables[2]["ours"][0]["values"][-1], tables[2]["difference"][-1], tables[2]["gain"][-1]]
    assert ours == pytest.approx([57.0, 1.0, 57.0 - 61.7])
    assert tables[4]["ours"][0]["values"][-1] is None  # nine tasks make a GLUE score, two do not
    rows = {row["name"]: row["values"][-1] for row in tables[5]["ours"]}
    assert rows == pytest.approx({"ours, full": 57.0, "ours, no_pretraining": 51.0})
    assert "| paper's GPT | 82.1 | 81.4 | 89.9 |" in output(artifact, "report.md").read_text()
    nine = report(tmp_path, [of_paper(work, task, 1, 0.0) for task in GLUE_METRICS])
    glue = next(table for table in results(nine)["tables"] if table["number"] == 4)
    assert glue["ours"][0]["values"][-1] == pytest.approx(72.8, abs=0.05)


def test_variants_and_a_user_s_task_are_rows(work: Workshop, tmp_path: Path) -> None:
    settings = [{"task": "mrpc", "lm_weight": w, "seed": s} for w in (0.0, 0.5) for s in (1, 2)]
    title = {"title": "Weather or not", "kind": "classification"}
    inputs = [work.pretrain(), *(work.scored(one, 70.0) for one in settings)]
    inputs.append(work.scored({"task": "my.weather", "seed": 1}, 61.0, **title))
    rows = results(report(tmp_path, inputs))["tasks"]
    expected = [*((f"lm_weight={w}", 2, 75.7) for w in (0.0, 0.5)), ("", 1, None)]
    assert [(row["variant"], row["runs"], row["paper"]) for row in rows] == expected
    assert [rows[2][name] for name in ("task", *title)] == ["my.weather", *title.values()]


def test_a_generation_task_has_a_copying_baseline_and_the_score_before(
    work: Workshop, tmp_path: Path
) -> None:
    more = {"metric": "rougeL", "baseline_kind": "copied source", "untrained": 3.2}
    task = work.scored({"task": "demo_reverse", "seed": 1}, 0, values={"rougeL": 58.4}, **more)
    artifact = report(tmp_path, [task])
    text, markdown = page(artifact)[0], output(artifact, "report.md").read_text()
    assert "1 of 1 task beats the majority, chance or copying baseline by 2" in text
    assert "3.2 before fine-tuning" in text
    assert "| 58.4; 3.2 before fine-tuning | 2.2 | 50.0 (copied source) |" in markdown


def test_a_users_matplotlibrc_changes_nothing() -> None:
    import matplotlib as mpl

    chart = Chart("x", "A title", "update", "loss", (Line("a", [1, 2, 3], [3.0, 2.0, 1.0]),))
    before = draw(chart)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "figure.facecolor": "red"}):
        assert draw(chart) == before


READ: list[tuple[Any, list[Any], str]] = [
    (number, [1234567, 183.42, 0.0123456, None], "1,234,567 183.4 0.01235 –"),
    (short, [812, 4190, 43100, 1_652_310, 116_534_784, 999_600],
        "812 4,190 43.1 k 1.65 M 117 M 1 M"),
    (span, [44.63, 163, 11_100, 2_600_000, None], "44.6s 2m 43s 3h 05m 30.1 days –"),
    (share, [1 / 107, 1 / 7_405_993, 1 / 5.1e9, 0.98, 1.5],
        "1/107 1/7.41 million 1/5,100 million 98 % 1.5 times"),
]


def test_numbers_as_people_read_them() -> None:
    assert [" ".join(map(one, values)) for one, values, _ in READ] == [text for *_, text in READ]
