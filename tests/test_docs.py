"""The documentation: reference pages are what the code says, links lead somewhere, pages are found, commands run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from click import Context
from click.exceptions import ClickException, Exit
from typer.testing import CliRunner

from docs.reference.make import pages
from pipeline.cli import app
from tests.conftest import ROOT

PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STARTS = re.compile(r"(?:gpt1|make|python|torchrun|ray|kubectl|curl|export|mlflow|docker|sbatch|hf) ")
INLINE = re.compile(r"`gpt1 ([^`\n]+)`")

NOT_RUN = {
    r"gpt1 (submit|jobs|logs|stop) ": "want a running cluster: tests/e2e/test_submit.py starts one",
    r"gpt1 run .*--address": "wants a running cluster: tests/e2e/test_submit.py starts one, and its job runs with --address",
    r"gpt1 .*s3://": "want a store on S3: tests/e2e/test_remote.py starts a server",
    r"gpt1 run .* longest_words$": "the stage that the page adds: tests/test_how_to.py adds it",
    r"gpt1 ui$": "serves until it is stopped: tests/e2e/test_browser.py opens its pages",
    r"gpt1 data get": "downloads the tasks: tests/pipeline/test_commands_tasks.py serves some",
    r"\. \.venv/bin/activate$": "changes the shell: tests/e2e/test_tutorial.py types it",
    r"torchrun ": "starts ranks: tests/gpt1/test_train_elastic.py does",
    r"curl 127": "wants a served model: tests/pipeline/test_served_model.py serves one",
    r"export \w+=": "sets addresses that only their reader knows: tests/e2e/test_remote.py sets its own",
    r"ray start --head$": "starts a cluster that stays: tests/servers/ray_cluster.py starts one that ends",
    r"hf ": "wants an account of the hub: tests/test_how_to.py asks `hf` whether it has these commands",
    r"kubectl ": "no Kubernetes here: tests/test_infra.py checks the files by its schemas",
}
"""Commands that no test of this file runs, by pattern, each with the reason and the file that does what can be done."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(pages()), ids=named)
def test_the_reference_is_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "run `python -m docs.reference.make`"


def targets(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link of a page inside the project: as written, the file it leads to, the anchor."""
    for _, link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in link and not link.startswith("mailto:"):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        link
        for link, target, anchor in targets(page)
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target))
    ]
    assert broken == []


def test_every_page_and_picture_is_reached_from_the_list_of_pages() -> None:
    reached, waiting = set(), [ROOT / "docs" / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [target for _, target, _ in targets(page) if target.is_file()] if page.suffix == ".md" else []
    there = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/images/*"), *ROOT.glob("*.md")}
    assert sorted(map(named, there - reached)) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_are_whole_markdown(page: Path) -> None:
    """What a build would warn of: a first heading, one only; blocks and tables that end as they began."""
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, "a block of code does not end"
    prose = BLOCK.sub("", text)
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, "more than one title"
    for table in re.findall(r"(?:^\|.*\|\n)+", prose, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, f"rows of unequal length: {table[:200]}"


def typed(page: Path) -> list[str]:
    """The commands of a page's blocks as they would be typed: without prompt, comment and continuation; those of `sh` and `console`
    blocks, and in blocks without a language the lines that begin like one."""
    found = []
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
            shown = {"sh": True, "console": line.startswith("$ "), "": bool(STARTS.match(command))}
            if shown.get(language) and command and not command.startswith(("#", "echo ")):
                found.append(command)
    return found


def parse(page: Path, line: str, complete: bool = True) -> None:
    """Parsed by the command line itself up to the point where it would run: every name, option and number of arguments fits."""
    words = [word for word in shlex.split(line.partition(" | ")[0].partition(" > ")[0])[1:] if word != "…"]
    command: Any = typer.main.get_command(app)
    context, word = Context(command, info_name="gpt1"), "gpt1"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        word, *words = words
        assert word in command.commands, f"{named(page)}: {line}: no such command {word!r}"
        command = command.commands[word]
    if not complete:
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = [option for option in words if option.startswith("-") and option not in known]
        assert unknown == [], f"{named(page)}: {line}: no such option"
        return
    try:
        command.make_context(word, words, parent=context)
    except Exit:
        return  # --help
    except ClickException as error:
        pytest.fail(f"{named(page)}: {line}: {error.format_message()}")


@pytest.mark.parametrize("page", [page for page in PAGES if any(line.startswith("gpt1 ") for line in typed(page))], ids=named)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for line in typed(page):
        if line.startswith("gpt1 "):
            parse(page, line)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=named)
def test_commands_in_the_running_text_have_their_names_and_options(page: Path) -> None:
    for words in INLINE.findall(page.read_text(encoding="utf-8")):
        if not words.startswith("COMMAND"):
            parse(page, f"gpt1 {words}", complete=False)


def test_the_first_page_is_the_same_in_both_languages() -> None:
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))
    assert typed(english) == typed(chinese)
    for pattern in (r"^!\[.*\]\((.*)\)$", r"\[[^\]]*\]\(([^)\s]+\.md)\)", r"^(##) ", r"\d[\d.]* GB"):
        here, there = (re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE) for page in (english, chinese))
        assert [word for word in here if not word.startswith("README")] == [word for word in there if not word.startswith("README")]


def kept_from_running(line: str) -> str | None:
    return next((pattern for pattern in NOT_RUN if re.match(pattern, line)), None)


def test_what_is_not_run_is_no_more_than_needed() -> None:
    lines = [line for page in PAGES for line in typed(page)]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, line) for line in lines)] == []
    assert [line for line in lines if not line.startswith(("gpt1 ", "make ", "python ")) and not kept_from_running(line)] == []
    for reason in NOT_RUN.values():
        assert [(ROOT / name).is_file() for name in re.findall(r"tests/\S+\.py", reason)] == [True], reason


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(re.match("make |python ", line) for line in typed(page))], ids=named
)
def test_targets_and_scripts_are_there(page: Path) -> None:
    """`make TARGET` as make would do it (tests/e2e/test_tutorial.py and .ci/run do it for real); a script's own options."""
    for line in typed(page):
        words = shlex.split(line)
        if words[0] == "make":
            done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        elif words[0] == "python":
            program = words[1:3] if words[1] == "-m" else words[1:2]
            command = [sys.executable, *program, "--help"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            assert [word for word in words if word.startswith("--") and word not in done.stdout] == [], line


def to_run(page: Path) -> list[str]:
    return [line for line in typed(page) if line.startswith("gpt1 ") and not kept_from_running(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=named)
def test_every_command_of_a_page_runs(page: Path, documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the files that the pages name and a small run's store. `run` says what it would make: tests/e2e runs."""
    for there in documented.iterdir():
        (tmp_path / there.name).symlink_to(there)
    monkeypatch.chdir(tmp_path)
    for line in to_run(page):
        words = shlex.split(line)[1:] + (["--dry-run"] if line.startswith("gpt1 run ") else [])
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}: {done.output[-2000:]} {done.exception!r}"
        assert done.output.strip(), f"{line}: printed nothing"


def where_it_runs(file: Path, name: str) -> str:
    """The least command that runs the test `name`, by the marks on it and on its file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [test] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    of_file = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
    marks = " ".join(ast.unparse(node) for node in (*test.decorator_list, *of_file))
    return "make test-slow" if "mark.long" in marks else ".ci/run" if "mark.slow" in marks else "make test"


def test_each_promise_names_a_test_and_where_it_runs() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| \[(\w+)\]\((tests/\S+\.py)\) \| `(.+)` \|$", text, re.MULTILINE)
    assert len(rows) == text.count("](tests/") > 20
    assert [row for row in rows if where_it_runs(ROOT / row[1], f"test_{row[0]}") != row[2]] == []
