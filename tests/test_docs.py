"""The documentation: reference pages are what the code says, links lead somewhere, the commands in the pages are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from click import Context
from click.exceptions import ClickException, Exit

from docs.reference.make import pages
from pipeline.cli import app
from tests.conftest import ROOT

PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(pages()), ids=named)
def test_the_reference_is_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "run `python -m docs.reference.make`"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


def commands(page: Path) -> list[str]:
    """The gpt1 commands of a page's blocks, as they would be typed: without prompt, variables, comment and continuation."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
            line = re.sub(r"^(?:[A-Z0-9_]+=\S+\s+)+", "", line).removeprefix(".venv/bin/")
            if line.startswith("gpt1 "):
                found.append(line)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    """Parsed by the command line itself up to the point where it would run: every name, option and number of arguments fits."""
    for line in commands(page):
        words = [word for word in shlex.split(line.partition(" | ")[0].partition(" > ")[0])[1:] if word != "…"]
        command = typer.main.get_command(app)
        context = Context(command, info_name="gpt1")
        while hasattr(command, "commands") and words:
            word, *words = words
            assert word in command.commands, f"{named(page)}: {line}: no such command {word!r}"
            command = command.commands[word]
        try:
            command.make_context(word, words, parent=context)
        except Exit:
            continue  # --help
        except ClickException as error:
            pytest.fail(f"{named(page)}: {line}: {error.format_message()}")
