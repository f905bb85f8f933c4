"""The size of the project: `python -m tests.size` prints a table, and the same figures as JSON in its last line.

A code line has code on it: it is not blank, a comment or a docstring (of an attribute too). A line
of any other string is code. The lines are those of `ruff format --line-length 100`, which leaves
what is marked `fmt: skip`; without ruff they are those of the files, and the table says so.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

from tests.conftest import ROOT

STOREYS = ("gpt1", "stages", "pipeline")
FOLDERS = (*STOREYS, "tests", "benchmarks")
COLUMNS = 100
CORE = (
    "gpt1/model/*.py",
    "gpt1/text/*.py",
    "gpt1/data/books_table.py", "gpt1/data/mixing.py", "gpt1/data/shard_file.py", "gpt1/data/shards.py", "gpt1/data/windows.py",
    "gpt1/train/*.py",
    "gpt1/tasks/batches.py", "gpt1/tasks/encoded.py", "gpt1/tasks/finetune.py", "gpt1/tasks/heads.py", "gpt1/tasks/job.py",
    "gpt1/tasks/pieces.py", "gpt1/tasks/task_model.py", "gpt1/tasks/transforms.py",
)  # fmt: skip
"""The core path: model, tokenizer, shards, trainer with checkpoint, fine-tuning."""
LAYOUT = {
    tokenize.ENCODING,
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> list[str]:
    """The code lines of a Python file. Raises SyntaxError."""
    described = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and token.start[0] in described
        if token.type not in LAYOUT and not docstring:
            found.update(range(token.start[0], token.end[0] + 1))
    return [line for number, line in enumerate(source.split("\n"), 1) if number in found and line.strip()]


def format_copy(folder: Path) -> bool:
    """Copy the project's Python files into `folder` and format them. False where ruff is not installed."""
    for part in FOLDERS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    if importlib.util.find_spec("ruff") is None:
        return False
    options = ["--line-length", str(COLUMNS), "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--quiet"]
    subprocess.run([sys.executable, "-m", "ruff", "format", *options, str(folder)], check=True)
    return True


def core_files(folder: Path) -> list[Path]:
    """The files of the core path below `folder`. Raises FileNotFoundError for a pattern that fits none."""
    found = {pattern: sorted(folder.glob(pattern)) for pattern in CORE}
    if missing := [pattern for pattern, files in found.items() if not files]:
        raise FileNotFoundError(f"CORE of tests/size.py names {', '.join(missing)}, which no file fits; correct the list")
    return [file for files in found.values() for file in files]


def measure_code(folder: Path) -> dict[str, dict[str, int]]:
    """Of each part: its files, their code lines, how many of these are longer than COLUMNS, and how many there are unformatted."""
    parts = {part: sorted((folder / part).rglob("*.py")) for part in FOLDERS}
    parts["storeys"] = [file for part in STOREYS for file in parts[part]]
    parts["core"] = core_files(folder)
    return {part: _measure(files, folder) for part, files in parts.items()}


def _measure(files: list[Path], folder: Path) -> dict[str, int]:
    lines = [line for file in files for line in code_lines(file.read_text(encoding="utf-8"))]
    written = [line for file in files for line in code_lines((ROOT / file.relative_to(folder)).read_text(encoding="utf-8"))]
    longer = sum(len(line) > COLUMNS for line in lines)
    return {"files": len(files), "lines": len(lines), "longer": longer, "as_written": len(written)}


def main() -> None:
    """Print the table and the JSON object."""
    with tempfile.TemporaryDirectory() as name:
        is_formatted = format_copy(Path(name))
        code = measure_code(Path(name))
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    words = sum(len(page.read_text(encoding="utf-8").split()) for page in pages)
    print(f"{'':12}{'files':>8}{'lines':>8}{f'over {COLUMNS}':>10}{'as written':>12}")
    for part, row in code.items():
        print(f"{part:12}{row['files']:8,}{row['lines']:8,}{row['longer']:10,}{row['as_written']:12,}")
    print(f"{'docs':12}{len(pages):8,}{words:8,} words")
    print(f"lines: {f'as ruff formats them at {COLUMNS} columns' if is_formatted else 'as written, for ruff is not installed'}")
    print(json.dumps({"formatted": is_formatted, "code": code, "docs": {"files": len(pages), "words": words}}))


if __name__ == "__main__":
    main()
