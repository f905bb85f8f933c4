"""The one exception for what a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """Something a user can correct: a file, a key, a row.

    The message names what was found, where, what was expected and what to do. The command line
    prints it as it is, without a traceback, and ends with exit status 2. Anything else that is
    raised is a fault of the program.
    """


class StoppedError(UserError):
    """The work has ended because it was asked to; the same command goes on from what it saved."""
