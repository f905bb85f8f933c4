"""What comes from strangers reaches no terminal, page or record as more than text."""

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.terminal import LONGEST, clean, one_line, show, to_json
from pipeline.execution.causes import describe_failure
from pipeline.store.base import Store
from tests.conftest import ROOT, write
from tests.pipeline.inline import TOY, plan_of, run_inline, write_numbers
from tests.pipeline.inprocess import gpt1, refused
from tests.stages.runs import artifact, library, output, run_text

ESCAPES = ("\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;mailto:x\x1b\\", "\x9b31m", "\x1bP", "\x07")
EVIL = f"a{''.join(ESCAPES)}b\u202ec"


def is_clean(text: str) -> bool:
    return clean(text) == text and "\x1b" not in text and "\x9b" not in text


@pytest.mark.parametrize(("text", "cleaned"), [
    ("plain\ttext\nof lines", "plain\ttext\nof lines"), ("\x1b[1;31mred\x1b[0m", "red"),
    ("\x1b\x1b[31m[31mx", "[31mx"), ("\x1b]0;never ended", "]0;never ended"),
    ("\x1b]0;a\x07b\x1b]8;;c\x1b\\d", "bd"), ("12%\r99%\r\n", "12%99%\n"), ("\x9b2J\x90q", "2Jq"),
    ("ab\u202edc\u2066e\u2028f", "abdcef"), ("Ünïcode 漢字", "Ünïcode 漢字"),
    ("half \ud800", "half \\ud800"),
])  # fmt: skip
def test_text_is_cleaned(text: str, cleaned: str) -> None:
    assert (clean(text), is_clean(cleaned)) == (cleaned, True)


def test_json_stays_what_it_was() -> None:
    values = {EVIL: ["\ud800", "é", "\u2028\x7f"]}
    found = to_json(values)
    assert (json.loads(found), is_clean(found), "é" in found) == (values, True, True)


def test_a_message_is_one_line_of_bounded_length() -> None:
    error = UserError(f"key {'k' * 3_000_000}: {EVIL}\n\nmore")
    assert (len(str(error)), "3,000,0" in str(error)) == (LONGEST, True)
    assert one_line(UserError(str(error))) == str(error)
    assert len(describe_failure(ValueError("v" * 3_000_000))) < LONGEST + 100
    assert one_line(f" {EVIL}\r\nsecond\tline ") == f"{clean(EVIL)} second line"


def test_what_a_terminal_cannot_show_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", stream)
    show("é\ud800", error=True)
    assert stream.buffer.getvalue() == b"\\xe9\\ud800\n"  # type: ignore[attr-defined]


def test_there_is_no_other_way_out() -> None:
    """Who prints, prints by `show`; the display cleans what it draws."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in ("gpt1", "stages", "pipeline")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
    ]
    assert [place.partition(":")[0] for place in found] == ["gpt1/terminal.py"]


def test_commands_print_what_settings_and_errors_hold_as_text(tmp_path: Path) -> None:
    file, store, marker = (tmp_path / name for name in ("workflow.yaml", "store", EVIL))
    marker.touch()
    axis = f"fail_unless: [{json.dumps(str(marker))}]"
    file.write_text(TOY.read_text().replace("factor: [1, 2]", axis))
    source = write_numbers(tmp_path / "numbers")
    given = ("--file", file, "--store", store, "--set", f"numbers.source={source}")
    run_inline(plan_of(file, store, f"numbers.source={source}"))
    for words in (["plan"], ["status", "--explain"], ["path", "total"], ["graph"], ["diff"]):
        ended = gpt1(*words, *given)
        assert is_clean(ended.out + ended.err), words
    rows: Any = gpt1("status", "--json", *given).json()["cells"]
    assert rows[1]["cell"] == f"total[fail_unless={marker}]"
    svg = tmp_path / "graph.svg"
    assert (gpt1("graph", *given, "--svg", svg).status, is_clean(svg.read_text())) == (0, True)
    for words in (["path", EVIL], ["trace", EVIL, "0"], ["perplexity", f"{EVIL}.txt"]):
        ended = gpt1(*words, *given)
        assert (ended.status, is_clean(ended.err), ended.err.count("\n")) == (2, True, 1), words


@pytest.mark.parametrize(("words", "message"), [
    (["plan", "--store", ""], "--store '': found an empty name"),
    (["jobs", "--address", ""], "--address ''.*: expected the address of a cluster's job server"),
    (["graph", "--svg", "."], r"--svg \.: cannot be written \(Is a directory\)"),
    (["run", "--address", "nosuch:1"], "nosuch:1.*: no Ray cluster answers"),
    (["run", "--set", "total.factor=[["], "--set total.factor:2: not valid YAML"),
    (["run", "--set", f"total.factor={'[' * 100_000}"], "factor:1: found more than 50 levels"),
])  # fmt: skip
def test_a_value_of_no_use_is_refused_in_a_line(
    words: list[str], message: str, numbers: Path, tmp_path: Path
) -> None:
    own = [] if words[0] == "jobs" else ["--file", TOY, "--set", f"numbers.source={numbers}"]
    said = refused(message, *words, *own, cwd=tmp_path)
    assert said.count("\n") == 1


def test_titles_and_texts_of_books_are_text_on_the_pages_of_the_audit(tmp_path: Path) -> None:
    books = library(tmp_path / "books")
    for file in books.rglob("*.txt"):
        file.write_text(file.read_text().replace("BOOK", f"{EVIL} BOOK"))
    row = {"title": EVIL, "author": EVIL, "text": (books / "author 1/book_1.txt").read_text()}
    (books / "author 1/book_1.txt").rename(books / f"{EVIL}.txt")
    write(books, {"rows.jsonl": json.dumps(row), f"{EVIL}.gz": "no archive"})
    plan = run_text(tmp_path / "store", books, "split.near_duplicates=false", until="audit")
    page = output(artifact(plan, "audit"), "audit.html").read_text(encoding="utf-8")
    assert is_clean(page)
    assert "31mPb" in page
    for record in Store.at(tmp_path / "store").root.glob("*/*/record.json"):
        assert "\x1b" not in record.read_text(encoding="utf-8")
