"""The one exception for what a user can cause."""

from __future__ import annotations

from gpt1.terminal import one_line


class UserError(Exception):
    """Something a user can correct: a file, a key, a row.

    The message, one line, names what was found, where, what was expected and what to do; what it
    quotes of a file may be of any length and kind, so it is cleaned and cut here, before anything
    prints or stores it. The command line prints it as it is, without a traceback, and ends with
    exit status 2. Anything else that is raised is a fault of the program.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class StoppedError(UserError):
    """The work has ended because it was asked to; the same command goes on from what it saved."""
