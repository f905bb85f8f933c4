"""The documentation's pictures, from a store of the demo: `python -m tests.screenshots STORE`.

Debian's Chromium, driven by Playwright, looks; the tests look with it as well.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import ROOT
from tests.servers.mlflow import ui

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = ROOT / "docs" / "images"
UNFOLD = (318, 265)  # where the first run of MLflow's list has its plus sign, which has no name
FIRST_SCREEN = 600  # pixels of its height that the answers take
SIZE = (1280, 800)


def chromium() -> str | None:
    """The browser's path: GPT1_CHROMIUM, or `chromium` of the system; None where there is none."""
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    return os.environ.get("GPT1_CHROMIUM") or system


@contextmanager
def page(
    scheme: str = "light", offline: bool = False, said: list[str] | None = None
) -> Iterator[Page]:
    """A page; `said` gets uncaught exceptions and the console's errors with their addresses."""
    from playwright.sync_api import sync_playwright

    messages = [] if said is None else said
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        size = {"width": SIZE[0], "height": SIZE[1]}
        look: Any = {"viewport": size, "color_scheme": scheme, "offline": offline}
        opened = browser.new_page(**look)
        opened.set_default_timeout(60_000)

        def hear(message: Any) -> None:
            if message.type == "error":
                messages.append(f"{message.text} ({message.location['url']})")

        opened.on("console", hear)
        opened.on("pageerror", lambda error: messages.append(str(error)))
        with closing(browser):
            yield opened


def save(opened: Page, path: Path, height: int) -> None:
    """The upper `height` pixels of the visible part as a PNG of 256 colors, which is small."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    opened.screenshot(path=path, clip={"x": 0, "y": 0, "width": SIZE[0], "height": height})
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


def of_report(store: Path) -> None:
    """The first screen of the report, light and dark; its tasks and its picture of the stages."""
    for scheme in ("light", "dark"):
        with page(scheme, offline=True) as opened:
            opened.goto((store / "report.html").resolve().as_uri())
            save(opened, IMAGES / f"report{'' if scheme == 'light' else '-dark'}.png", FIRST_SCREEN)
            for section in ("workflow", "tasks") if scheme == "light" else ():
                opened.evaluate(f"document.querySelector('#{section}').scrollIntoView()")
                save(opened, IMAGES / f"{section}.png", FIRST_SCREEN)


@contextmanager
def mlflow(store: Path) -> Iterator[str]:
    """`gpt1 ui` of a store; the address it prints, that of the list of runs."""
    with tempfile.TemporaryDirectory() as name, ui(store, log := Path(name, "log")):
        yield re.findall(r" at (http://\S+)", log.read_text())[0]


def close_what_mlflow_opens(opened: Page) -> None:
    """Its assistant and its news, which a new visitor gets."""
    opened.wait_for_timeout(2500)
    for _ in range(2):
        for button in opened.get_by_role("button", name="Close", exact=True).all():
            button.click()
            opened.wait_for_timeout(500)


def of_mlflow(store: Path) -> None:
    """The list of runs, a stage's curves, a matrix's table, and the registry."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store.resolve() / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'gpt1'")
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    ids = {run.info.run_name: run.info.run_id for run in runs}
    with mlflow(store) as first, page() as opened:
        base, training = first.partition("#/")[0], first.partition("?")[2]
        run = f"experiments/{experiment.experiment_id}/runs"
        for name, place, text in (
            ("mlflow-runs", "", "Run Name"),
            ("mlflow-curves", f"{run}/{ids['pretrain']}/model-metrics", "val/perplexity"),
            ("mlflow-system", f"{run}/{ids['pretrain']}/system-metrics", "cpu_utilization"),
            ("mlflow-matrix", f"{run}/{ids['finetune']}", "Description"),
            ("mlflow-registry", "models/gpt1", "newest"),
        ):
            opened.goto(f"{base}#/{place}?{training}" if place else first)
            opened.get_by_text(text).first.wait_for()
            close_what_mlflow_opens(opened)
            if name == "mlflow-runs":
                opened.mouse.click(*UNFOLD)
                opened.wait_for_timeout(1500)
            save(opened, IMAGES / f"{name}.png", SIZE[1])


def main() -> None:
    if chromium() is None:
        sys.exit("screenshots: no chromium found; install it, or name it in GPT1_CHROMIUM")
    if len(sys.argv) != 2:
        sys.exit("screenshots: expected one argument, the store of a finished demo")
    of_report(Path(sys.argv[1]))
    of_mlflow(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
