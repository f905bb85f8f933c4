"""What people see, in a real browser: the report from the file system without network, and MLflow over a run of every stage."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.browser import SIZE, chromium, page
from tests.e2e.workflow import records, run_mini
from tests.screenshots import mlflow

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="no chromium here (GPT1_CHROMIUM names one)")]
QUESTIONS = (
    "Did it learn?", "How far from the paper?", "Where did the data come from?", "What ran, what was cached?",
    "How long, how costly?",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "store"
    ended = run_mini(folder)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_answers_without_network(store: Path, scheme: str) -> None:
    said: list[str] = []
    fetched: list[str] = []
    with page(scheme, offline=True, said=said) as opened:
        opened.on("request", lambda request: fetched.append(request.url))
        opened.goto((store / "report.html").resolve().as_uri())
        for question in QUESTIONS:
            box = opened.get_by_text(question, exact=True).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= SIZE[1], f"{question} lies below the first screen"
        answers = opened.locator(".answers").bounding_box()
        assert answers is not None
        assert answers["y"] + answers["height"] <= SIZE[1]
        assert opened.evaluate("document.documentElement.scrollWidth") <= SIZE[0], "the page is wider than the window"
        assert opened.locator("svg.dag rect").count() >= 10
    assert said == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def test_the_keyboard_reaches_everything(store: Path) -> None:
    with page(offline=True) as opened:
        opened.goto((store / "report.html").resolve().as_uri())
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.textContent") == "To the results"
        opened.keyboard.press("Enter")
        assert opened.url.endswith("#main")
        summary = opened.locator("#tables summary").first
        summary.focus()
        opened.keyboard.press("Enter")
        assert opened.locator("#tables details").first.get_attribute("open") is not None


def post(address: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_mlflow_shows_runs_curves_artifacts_and_models(store: Path) -> None:
    said: list[str] = []
    run_id = records(store, "pretrain")["pretrain/pretrain"]["mlflow_run_id"]
    with mlflow(store) as address, page(said=said) as opened:
        experiment = post(address, "runs/search", experiment_ids=["1"], max_results=1)["runs"][0]["info"]["experiment_id"]
        opened.goto(f"{address}/#/experiments/{experiment}/runs")
        opened.get_by_text("mini", exact=False).first.wait_for()  # the parent; its stages are nested in it
        opened.goto(f"{address}/#/experiments/{experiment}/runs/{run_id}")
        opened.get_by_text("validation_perplexity").first.wait_for()
        opened.goto(f"{address}/#/experiments/{experiment}/runs/{run_id}/artifacts")
        opened.get_by_text("record.json").first.wait_for()
        opened.goto(f"{address}/#/models")
        opened.get_by_text("gpt1", exact=True).first.wait_for()
    assert [text for text in said if "TypeError" in text or "ReferenceError" in text] == []
