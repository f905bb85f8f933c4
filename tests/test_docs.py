"""The documentation: references are what the code says, links lead somewhere, commands run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer.main
from click import Context
from click.exceptions import ClickException, Exit
from typer.testing import CliRunner

from docs.reference.make import pages
from pipeline.cli.main import app
from tests.conftest import ROOT

PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
BLOCK = r"(?s)^```(\w*)\n(.*?)^```$"
STARTS = re.compile(r"(?:gpt1|make|python|torchrun|ray|kubectl|curl|export|mlflow|docker|hf) ")

NOT_RUN = {
    r"gpt1 (submit|jobs|logs|stop) |gpt1 run .*--address": "a running cluster",
    r"gpt1 .*s3://|export \w+=": "a store on S3, and addresses that only the reader knows",
    r"gpt1 ui$|curl 127|ray start --head$": "a server that runs until it is stopped",
    r"gpt1 data get|gpt1 run .*tasks=\[cola|hf ": "the network, and an account of the hub",
    r"\. \.venv/bin/activate$": "a shell",
    r"torchrun ": "several processes",
    r"kubectl ": "Kubernetes",
}
"""What this file does not run, and what it would need; tests/e2e runs most of it."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def search(pattern: str, page: Path) -> list[Any]:
    """What a page has of a pattern of its lines."""
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = search(r"^#+ (.+)$", page)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(pages()), ids=named)
def test_the_reference_is_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "run `python -m docs.reference.make`"


def targets(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link of a page inside the project: as written, the file it leads to, the anchor."""
    for link in search(r"\[[^\]]*\]\(([^)\s]+)\)", page):
        if "://" not in link and not link.startswith("mailto:"):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link, target, anchor in targets(page):
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in headings(target), link


def typed(page: Path) -> list[str]:
    """The commands of a page's blocks as they would be typed, without prompt and comment.

    Those of `sh` and `console` blocks; of blocks without a language the lines that begin like one.
    """
    found = []
    for language, block in search(BLOCK, page):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
            shown = {"sh": True, "console": line.startswith("$ "), "": bool(STARTS.match(command))}
            if shown.get(language) and command and not command.startswith(("#", "echo ")):
                found.append(command)
    return found


LINES = {line: page for page in PAGES for line in typed(page)}
"""All of them, each with a page that has it."""


def parse(line: str, complete: bool = True) -> None:
    """Parsed by the command line itself up to where it would run: names, options, arguments fit."""
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0].replace(" …", ""))[1:]
    command: Any = typer.main.get_command(app)
    context, word = Context(command, info_name="gpt1"), "gpt1"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        word, *words = words
        assert word in command.commands, f"{line}: no such command {word!r}"
        command = command.commands[word]
    if complete:
        try:
            with suppress(Exit):  # --help
                command.make_context(word, words, parent=context)
        except ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")
    else:
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {option for option in words if option.startswith("-")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    """In blocks with all that it needs; in the running text by its names and options."""
    for line in typed(page):
        if line.startswith("gpt1 "):
            parse(line)
    for words in search(r"`gpt1 ([^`\n]+)`", page):
        if not words.startswith("COMMAND") and page.name != "CHANGELOG.md":
            parse(f"gpt1 {words}", complete=False)


@pytest.mark.parametrize(
    "pattern", [r"^!\[.*\]\((.*)\)$", r"\]\((?!README)([^)\s]+\.md)\)", r"^(##) ", r"\d[\d.]* GB"]
)
def test_the_first_page_is_the_same_in_both_languages(pattern: str) -> None:
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))
    assert typed(english) == typed(chinese)
    assert search(pattern, english) == search(pattern, chinese)


@pytest.mark.parametrize("line", [line for line in LINES if re.match("make |python ", line)])
def test_what_is_not_gpt1_has_these_commands_and_options(line: str) -> None:
    """`make TARGET` as make would do it (.ci/run does it for real); the options of a script."""
    program, *words = shlex.split(line)
    script = words[:2] if words[0] == "-m" else words[:1]
    command = ["make", "-n", *words] if program == "make" else [sys.executable, *script, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    asked = [word for word in words if program == "python" and word.startswith("--")]
    assert [word for word in asked if word not in shown.stdout] == []


def to_run(page: Path) -> list[str]:
    lines = [line for line in typed(page) if line.startswith("gpt1 ")]
    return [line for line in lines if not any(re.match(pattern, line) for pattern in NOT_RUN)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=named)
def test_every_command_of_a_page_runs(
    page: Path, documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with the files that the pages name, the stage and the task that they add, and the
    store of a small run; `run` says what it would make.
    """
    for there in documented.iterdir():
        (tmp_path / there.name).symlink_to(there)
    monkeypatch.chdir(tmp_path)
    for line in to_run(page):
        dry = ["--dry-run"] if line.startswith("gpt1 run ") else []
        ended = CliRunner().invoke(app, [*shlex.split(line)[1:], *dry])
        assert ended.exit_code == 0, f"{line}: {ended.output[-2000:]} {ended.exception!r}"
    if page.name == "stage.md":
        [longest] = (tmp_path / "store").glob("my.longest_words/*/*/words.txt")
        assert len(longest.read_text().split()) == 20


def where_it_runs(file: Path, name: str) -> str:
    """The least command that runs the test `name`, by the marks on it and on its file."""
    before, found, _ = file.read_text(encoding="utf-8").partition(f"\ndef {name}(")
    assert found, f"{file}: no {name}"
    of_file = "".join(re.findall(r"^pytestmark = .*(?:\n.+)*", before, re.MULTILINE))
    marks = re.findall(r"mark\.(chaos|slow)", of_file + (before + "\n").rpartition("\n\n\n")[2])
    return "make chaos" if "chaos" in marks else ".ci/run" if marks else "make test"


def test_each_promise_names_a_test_and_where_it_runs() -> None:
    page = ROOT / "CONTRIBUTING.md"
    rows = search(r"^\| .+ \| \[(\w+)\]\((tests/\S+\.py)\) \| `(.+)` \|$", page)
    assert len(rows) == len(search(r"\]\(tests/", page)) > 20
    assert [row for row in rows if where_it_runs(ROOT / row[1], f"test_{row[0]}") != row[2]] == []
