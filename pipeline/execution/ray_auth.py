"""Ray's token authentication, as the user has set it: RAY_AUTH_MODE, RAY_AUTH_TOKEN,
RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpt1.errors import UserError

GIVE_TOKEN = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the cluster's nodes"
    " (docs/explanation/cluster.md)"
)

UNSENDABLE = "is not a token: expected one line of printable ASCII characters"


def auth_mode() -> str | None:
    """RAY_AUTH_MODE; None when it is not set.

    UserError for any other word, which Ray would silently take for `disabled`.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode not in ("", "token", "disabled"):
        raise UserError(f"RAY_AUTH_MODE={mode}: expected token or disabled")
    return mode or None


def user_token() -> str | None:
    """The user's token, from where Ray takes it.

    UserError when RAY_AUTH_TOKEN_PATH names no file with one.
    """
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        if not _can_be_sent(given):
            raise UserError(f"RAY_AUTH_TOKEN {UNSENDABLE}")
        return given
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        found = Path(named or "~/.ray/auth_token").expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home folder
        found, why = "", f"cannot be read ({getattr(error, 'strerror', None) or error})"
    else:
        why = "is empty"
    if found and not _can_be_sent(found):
        raise UserError(
            f"{'RAY_AUTH_TOKEN_PATH=' if named else ''}{named or '~/.ray/auth_token'} {UNSENDABLE}"
        )
    if named and not found:
        raise UserError(
            f"RAY_AUTH_TOKEN_PATH={named} {why}; expected a file with the Ray cluster's token"
        )
    return found or None


def token_to_send() -> str | None:
    """The token that Ray's client will send.

    UserError in token mode when there is none: Ray would refuse to try.
    """
    if auth_mode() != "token":
        return None
    token = user_token()
    if token is None:
        raise UserError(f"RAY_AUTH_MODE=token, but no token was found; {GIVE_TOKEN}")
    return token


def _can_be_sent(token: str) -> bool:
    """Whether it can stand in a header. The errors of the libraries that send it would print it."""
    return token.isascii() and token.isprintable()
