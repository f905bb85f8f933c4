"""What people see in a browser: the report without network, and MLflow over every stage."""

import re
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_server import default_uri
from tests.pipeline.test_tracking import runs as runs_of
from tests.screenshots import SIZE, chromium, close_what_mlflow_opens, mlflow, page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no chromium (GPT1_CHROMIUM names one)"),
]
QUESTIONS = (
    "Did it learn?", "How far from the paper?", "Where did the data come from?",
    "What ran, what was cached?", "How long, how costly?",
)  # fmt: skip
OF_MLFLOW = re.compile("/ajax-api/2.0/mlflow/users/current|ResizeObserver loop.*/static-files/")
"""MLflow's pages ask for an address that its server does not have without users, and their
charts may take longer than a frame to resize, which the browser mentions when it is busy."""


def report(store: Path) -> str:
    return (store / "report.html").resolve().as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_answers_without_network(documented: Path, scheme: str) -> None:
    said, fetched = list[str](), list[str]()
    with page(scheme, offline=True, said=said) as opened:
        opened.on("request", lambda request: fetched.append(request.url))
        opened.goto(report(documented / "store"))
        boxes = [opened.get_by_text(text, exact=True).bounding_box() for text in QUESTIONS]
        for box in [*boxes, opened.locator(".answers").bounding_box()]:
            assert box is not None
            assert box["y"] + box["height"] <= SIZE[1], "below the first screen"
        for width in (SIZE[0], 390):  # a window, a telephone
            opened.set_viewport_size({"width": width, "height": 800})
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.locator("svg.dag rect").count() >= 10
    assert said == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def test_on_paper_and_by_keyboard(documented: Path, tmp_path: Path) -> None:
    """The keyboard reaches everything. Printing unfolds what was folded, black on white."""
    with page("dark", offline=True) as opened:
        opened.goto(report(documented / "store"))
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.textContent") == "To the results"
        opened.keyboard.press("Enter")
        assert opened.url.endswith("#main")
        opened.locator("#tables summary").first.focus()
        opened.keyboard.press("Enter")
        assert opened.locator("#tables details").first.get_attribute("open") is not None
        folded = opened.locator("#provenance details code").first
        assert not folded.is_visible()
        opened.emulate_media(media="print", color_scheme="dark")
        color = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert color == "rgb(255, 255, 255)"
        assert folded.is_visible()
        assert not opened.locator("nav").is_visible()
        opened.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_mlflow_shows_runs_curves_artifacts_and_models(documented: Path) -> None:
    said: list[str] = []
    store = documented / "store"
    ids = {run.info.run_name: run.info.run_id for run in runs_of(default_uri(store)).values()}
    with mlflow(store) as runs, page(said=said) as opened:
        start, training = runs.partition("?")[::2]

        def shows(address: str, *texts: str) -> None:
            opened.goto(f"{address}?{training}")
            for text in texts:
                opened.get_by_text(text).first.wait_for()

        opened.goto(runs)  # the address that `gpt1 ui` prints
        parent = opened.get_by_role("link", name="demo", exact=True).last
        parent.wait_for()
        close_what_mlflow_opens(opened)
        parent.click()
        opened.get_by_text("Child runs").first.wait_for()
        opened.get_by_role("link", name="finetune", exact=True).first.click()
        opened.get_by_role("cell", name="rte").first.wait_for()
        pretrain, report = (f"{start}/{ids[name]}" for name in ("pretrain", "report"))
        shows(f"{pretrain}/model-metrics", "val/perplexity", "over_tokens")
        shows(f"{pretrain}/system-metrics", "cpu_utilization_percentage")
        shows(f"{pretrain}/artifacts", "record.json")
        shows(f"{report}/artifacts/outputs/figures/perplexity.svg", "perplexity.svg")
        shows(f"{runs.partition('#/')[0]}#/models/gpt1", "newest", "demo")
    assert [text for text in said if not OF_MLFLOW.search(text)] == []
