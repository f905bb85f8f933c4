"""Debian's Chromium, driven by Playwright: what the tests and the screenshots look with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
