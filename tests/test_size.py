"""What counts as a code line."""

from tests.size import code_lines, core_files

SOURCE = '''\
"""A module's docstring

of several lines."""
import os  # a comment behind code
# a comment alone
class Box:
    size: int = 3
    """An attribute's docstring."""
    def text(self) -> str:
        """A function's docstring."""
        return """a string

        # no comment"""
TOTAL = (  # one

    1)
'''


def test_blanks_comments_and_docstrings_are_no_code() -> None:
    lines = [4, 6, 7, 9, 11, 13, 14, 16]
    assert code_lines(SOURCE) == [SOURCE.split("\n")[number - 1] for number in lines]
    assert code_lines("") == code_lines('"""A docstring."""') == []


def test_the_core_path_names_files_that_are_there() -> None:
    assert len(set(core_files())) == len(core_files()) > 20
