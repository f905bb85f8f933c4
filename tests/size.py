"""The size of the project: `python -m tests.size` prints a table, then JSON in one line.

A code line has code on it: it is not blank, a comment or a docstring (of an attribute too). A line
of any other string is code. Lines are counted as they are written, at most 100 columns by ruff.
"""

import ast
import io
import json
import tokenize
from pathlib import Path

from tests.conftest import ROOT

STOREYS = ("gpt1", "stages", "pipeline")
FOLDERS = (*STOREYS, "tests", "benchmarks")
CORE = (
    "gpt1/model/*.py", "gpt1/tokenizer/*.py", "gpt1/train/*.py", "gpt1/data/sequences.py",
    "gpt1/data/shards.py", "gpt1/tasks/dataset.py",
    "gpt1/tasks/finetune.py", "gpt1/tasks/model.py",
)  # fmt: skip
"""The core path: model, tokenizer, shards, trainer with checkpoint, fine-tuning."""
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> list[str]:
    """The code lines of a Python file. Raises SyntaxError."""
    described = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and token.start[0] in described
        if token.type not in LAYOUT and not docstring:
            found.update(range(token.start[0], token.end[0] + 1))
    lines = enumerate(source.split("\n"), 1)
    return [line for number, line in lines if number in found and line.strip()]


def core_files() -> list[Path]:
    """The files of the core path. Raises FileNotFoundError for a pattern that fits none."""
    found = {pattern: sorted(ROOT.glob(pattern)) for pattern in CORE}
    if missing := [pattern for pattern, files in found.items() if not files]:
        names = ", ".join(missing)
        raise FileNotFoundError(
            f"CORE of tests/size.py names {names}, which no file fits; correct it"
        )
    return [file for files in found.values() for file in files]


def main() -> None:
    """Print the table and the JSON object."""
    parts = {part: sorted((ROOT / part).rglob("*.py")) for part in FOLDERS}
    parts["storeys"] = [file for part in STOREYS for file in parts[part]]
    parts["core"] = core_files()
    code = {part: {"files": len(files), "lines": lines_of(files)} for part, files in parts.items()}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    words = sum(len(page.read_text(encoding="utf-8").split()) for page in pages)
    print(f"{'':12}{'files':>8}{'lines':>8}")
    for part, row in code.items():
        print(f"{part:12}{row['files']:8,}{row['lines']:8,}")
    print(f"{'docs':12}{len(pages):8,}{words:8,} words")
    print(json.dumps({"code": code, "docs": {"files": len(pages), "words": words}}))


def lines_of(files: list[Path]) -> int:
    """The number of their code lines."""
    return sum(len(code_lines(file.read_text(encoding="utf-8"))) for file in files)


if __name__ == "__main__":
    main()
