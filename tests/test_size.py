"""What counts as a code line."""

from __future__ import annotations

from tests.conftest import ROOT
from tests.size import code_lines, core_files

SOURCE = '''\
"""A module's docstring

of several lines."""

import os  # a comment behind code

# a comment alone


class Box:
    """A class's docstring."""

    size: int = 3
    """An attribute's docstring."""

    def text(self) -> str:
        """A function's
        docstring."""
        return """a string

        # no comment
        """


def one_line() -> None: "a docstring behind code"


TOTAL = (
    1  # one
    +

    2
)
'''
CODE = [
    "import os  # a comment behind code",
    "class Box:",
    "    size: int = 3",
    "    def text(self) -> str:",
    '        return """a string',
    "        # no comment",
    '        """',
    'def one_line() -> None: "a docstring behind code"',
    "TOTAL = (",
    "    1  # one",
    "    +",
    "    2",
    ")",
]


def test_blanks_comments_and_docstrings_are_no_code() -> None:
    assert code_lines(SOURCE) == CODE


def test_an_empty_file_has_no_code() -> None:
    assert code_lines("") == code_lines('"""A docstring."""') == []


def test_the_core_path_names_files_that_are_there() -> None:
    files = core_files(ROOT)
    assert len(set(files)) == len(files)
