"""What people see, in a real browser: the report from the file system without network, and MLflow over a run of every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser import SIZE, chromium, page
from tests.screenshots import close_what_mlflow_opens, mlflow

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="no chromium here (GPT1_CHROMIUM names one)")]
QUESTIONS = (
    "Did it learn?", "How far from the paper?", "Where did the data come from?", "What ran, what was cached?",
    "How long, how costly?",
)  # fmt: skip
OF_MLFLOW = "/ajax-api/2.0/mlflow/users/current"
"""MLflow's pages ask for the user's name even where no users are kept, and its server then has no such address (404). Nothing else
is left out of what the console said."""


@pytest.fixture(scope="module")
def store(documented: Path) -> Path:
    return documented / "store"


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


def test_a_telephone_scrolls_one_way_only(store: Path) -> None:
    with page(offline=True) as opened:
        opened.set_viewport_size({"width": 390, "height": 800})
        opened.goto((store / "report.html").resolve().as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_printed_it_is_light_and_all_of_it_is_there(store: Path, tmp_path: Path) -> None:
    """Whoever prints in a dark scheme gets black on white, and what was folded is unfolded."""
    with page("dark", offline=True) as opened:
        opened.goto((store / "report.html").resolve().as_uri())
        folded = opened.locator("#provenance details code").first
        assert not folded.is_visible()
        opened.emulate_media(media="print", color_scheme="dark")
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert folded.is_visible()
        assert not opened.locator("nav").is_visible()
        opened.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


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


def recorded(store: Path, cell: str) -> str:
    """MLflow's id of the run that made a cell."""
    for path in store.glob("*/*/record.json"):
        record = json.loads(path.read_text())
        if record["cell"] == cell:
            return str(record["mlflow_run_id"])
    raise AssertionError(f"{cell} has no record")


def test_mlflow_shows_runs_curves_artifacts_and_models(store: Path) -> None:
    said: list[str] = []
    with mlflow(store) as runs, page(said=said) as opened:
        start, training = runs.partition("?")[::2]
        base = runs.partition("#/")[0]
        opened.goto(runs)  # the address that `gpt1 ui` prints
        parent = opened.get_by_role("link", name="demo 20").last  # the first run, which made everything
        parent.wait_for()
        close_what_mlflow_opens(opened)
        parent.click()
        opened.get_by_text("Child runs").first.wait_for()
        opened.get_by_role("link", name="finetune", exact=True).first.click()  # nested: the matrix, with its cells side by side
        opened.get_by_role("cell", name="rte").first.wait_for()
        pretrain = f"{start}/{recorded(store, 'pretrain')}"
        opened.goto(f"{pretrain}/model-metrics?{training}")
        opened.get_by_text("validation_perplexity", exact=True).first.wait_for()
        opened.get_by_text("over_tokens").first.wait_for()
        opened.goto(f"{pretrain}/system-metrics?{training}")
        opened.get_by_text("cpu_utilization_percentage").first.wait_for()
        opened.goto(f"{pretrain}/artifacts?{training}")
        opened.get_by_text("record.json").first.wait_for()
        opened.goto(f"{start}/{recorded(store, 'report')}/artifacts/outputs/figures/perplexity.svg?{training}")
        opened.get_by_text("perplexity.svg").first.wait_for()
        opened.goto(f"{base}#/models/gpt1?{training}")
        for alias in ("newest", "demo"):
            opened.get_by_text(alias, exact=False).first.wait_for()
    assert [text for text in said if OF_MLFLOW not in text] == []
