"""Access to Ray: a cluster of our own, which lets no stranger in, or one that answers, and takes
our token, at an address.

The token is where the user has set it: RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH,
~/.ray/auth_token.
"""

from __future__ import annotations

import os
import re
import resource
import secrets
import stat
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from gpt1.errors import UserError
from gpt1.terminal import one_line, show
from pipeline.planning.last_run import SUBMITTED_FILE

PATIENCE = 10.0  # seconds for an answer
ANSWERED = 200  # characters that are shown of one, which may be a page
LONGEST_SOCKET = 107  # bytes of a Unix socket's path
FILES = 256  # that Ray's raylet opens on a small machine; with 64 it dies
PAGES = (
    "^Raylet is terminated|has been marked dead because the detector|^A worker died or was killed"
)
GIVE_TOKEN = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the cluster's nodes"
    " (docs/explanation/cluster.md)"
)
UNSENDABLE = "is not a token: expected one line of printable ASCII characters"
OTHER_FOLDER = "set RAY_TMPDIR to a short, writable path such as ~/ray"


def prepare(address: str | None) -> str | None:
    """Get ready for `ray.init` at `address`, before `ray` is imported, which reads the environment
    once.

    Returns the address; None for a cluster that this command starts, which then listens on loopback
    alone and has a token. UserError where no cluster answers, it refuses our token, or none can be
    started. Warns of a cluster without authentication.
    """
    if _own(address):
        _prepare_own()
        return None
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    assert address is not None
    if not _asks_for_token(address) and SUBMITTED_FILE not in os.environ:
        warn_of_open(address)  # who submits a job is warned by `submit`
    return address


def set_environment(address: str | None) -> None:
    """Set what Ray reads while it is imported, for a cluster of our own; before any module of
    the user's, which may import it.
    """
    # Ray prints pages when one of its processes dies, which a run reports in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", PAGES)
    if _own(address):
        _set_own()


def check_job_server(address: str) -> bool:
    """Whether the cluster with the job server at `address` asks for a token.

    UserError when none answers, or it refuses ours.
    """
    expected = "the address of a cluster's job server, such as http://127.0.0.1:8265"
    try:
        parts, shown = urlsplit(address), without_password(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, shown = False, address
    where = f"--address {shown!r} (or RAY_API_SERVER_ADDRESS)"
    if not valid:
        raise UserError(f"{where}: expected {expected}")
    token = token_to_send()
    status, content = _get_version(address, where)
    asks = status in (401, 403)
    if asks and token is not None:
        status, content = _get_version(address, where, {"Authorization": f"Bearer {token}"})
    if status in (401, 403):
        raise UserError(_refused(where, token))
    if status != 200 or b'"ray_version"' not in content:
        found = f"found a server that is not a Ray cluster (HTTP status {status})"
        raise UserError(f"{where}: {found}; expected {expected}")
    return asks


def warn_of_open(address: str) -> None:
    """Say that a cluster lets everybody in."""
    who = "anyone who can reach its ports can run programs on it"
    warning = f"warning: the Ray cluster at {address} has no authentication: {who}"
    show(f"{warning} (docs/explanation/cluster.md)", error=True)


def temporary_folder() -> tuple[Path, str]:
    """The folder in which Ray keeps its sockets and logs, and why it cannot (empty: it can).

    Where RAY_TMPDIR names none it is one that only this user can enter, which is made: Ray lets
    everybody read and write what it makes itself.
    """
    given = os.environ.get("RAY_TMPDIR")
    folder = Path(given or f"{os.environ.get('TMPDIR') or '/tmp'}/gpt1-{os.getuid()}")
    session = folder / "ray" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    if not folder.is_absolute():
        return folder, "is not an absolute path"
    if (length := len(os.fsencode(session / "sockets" / "plasma_store"))) > LONGEST_SOCKET:
        return folder, f"is {length - LONGEST_SOCKET} bytes too long for Unix socket paths"
    if not given:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()  # another user may have made it first, or a link
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                return folder, "belongs to another user, or lets others in"
    place = folder / "ray"
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return folder, why_not_writable(place)


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder; empty where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"is not writable ({error.strerror})"


def _own(address: str | None) -> bool:
    """Whether a run at this address starts a cluster of its own."""
    given = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    return given == "local" or address is None


def _prepare_own() -> None:
    folder, fault = temporary_folder()
    if fault:
        raise UserError(f"Ray's temporary folder {folder} {fault}; {OTHER_FOLDER}")
    if (most := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) < FILES:
        problem = f"a process can open {most} files here (`ulimit -n`)"
        raise UserError(f"{problem}, but Ray needs at least {FILES}; raise the limit")
    # Ray would take an empty variable for the working directory.
    os.environ["RAY_TMPDIR"] = str(folder)
    _set_own()


def _set_own() -> None:
    os.environ.pop("RAY_ADDRESS", None)
    # Ray's word for "only this machine", read on Linux too. `_node_ip_address="127.0.0.1"` it
    # replaces by the host's address.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    mode = auth_mode()
    if mode == "disabled":
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    named = mode or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named or user_token() is None:
        # Ray itself would write one to ~/.ray, for everybody to read.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _get_version(
    address: str, where: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    import requests

    url = f"{address.rstrip('/')}/api/version"
    answered: Future[tuple[int, bytes]] = Future()

    def ask() -> None:
        try:
            # An answer that is not Ray's may have any length.
            with requests.get(url, headers=headers, timeout=PATIENCE, stream=True) as answer:
                answered.set_result((answer.status_code, next(answer.iter_content(4096), b"")))
        except Exception as error:
            answered.set_exception(error)

    # In a thread, which is not waited for: `timeout` bounds each read, and a byte a second would be
    # an answer for hours.
    Thread(target=ask, daemon=True).start()
    try:
        return answered.result(PATIENCE + 1)
    except (OSError, ValueError) as error:
        raise _no_answer(where, _reason(error)) from None


def _asks_for_token(address: str) -> bool:
    """Whether the cluster at `address` asks for a token.

    UserError when no cluster answers, or it refuses ours.
    """
    where = f"--address {address!r} (or RAY_ADDRESS)"
    if not re.fullmatch(r"auto|([^\s/:@]+|\[[0-9a-fA-F:]+\]):\d{1,5}", address):
        expected = "expected HOST:PORT of a Ray cluster, such as 127.0.0.1:6379, or auto"
        is_server = address.startswith("http")
        advice = f"; to submit a job to {address}, use `gpt1 submit`" if is_server else ""
        raise UserError(f"{where}: {expected}{advice}")
    token = token_to_send()
    if address == "auto" and auth_mode() is None:
        token = user_token()  # Ray takes it then without being asked to
    from stages._ray_private import has_node_here, resolve_address, warning_if_untested

    if warning := warning_if_untested("addresses are not checked before they are used"):
        show(warning, error=True)
        return True
    try:
        place = resolve_address(address)
    except (OSError, ValueError) as error:
        raise _no_answer(where, _reason(error)) from None
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        # Whoever has no certificate is refused; Ray has the certificates, and says what is wrong
        # with them
        return True
    from grpc import StatusCode

    status, why = _ask(place)
    asks = status is StatusCode.UNAUTHENTICATED
    if asks and (token is None or _ask(place, token)[0] is StatusCode.UNAUTHENTICATED):
        raise UserError(_refused(where, token))
    if status not in (None, StatusCode.UNAUTHENTICATED):
        raise _no_answer(where, why, f" at {place}")
    deadline = time.monotonic() + PATIENCE
    while not (has_node := has_node_here()) and time.monotonic() < deadline:
        time.sleep(0.5)  # a node's processes start one after the other
    if not has_node:
        problem = f"{where}: this machine runs no node of the cluster, which a run needs"
        start = f"start one with `ray start --address {address}`"
        raise UserError(f"{problem}; {start}, or submit the run with `gpt1 submit`")
    return asks


def _ask(place: str, token: str | None = None) -> tuple[Any, str]:
    """Ask a cluster's control service whether it lives: (None, "") when it does, or gRPC's status
    and why.
    """
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            is_alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            is_alive(b"", timeout=PATIENCE, metadata=metadata)
        except grpc.RpcError as error:
            call: Any = error
            why = str(call.details()).rpartition("last error: ")[2]
            return call.code(), one_line(why, ANSWERED)
    return None, ""


def _no_answer(where: str, why: str, place: str = "") -> UserError:
    advice = "start one with `ray start --head`"
    return UserError(f"{where}: no Ray cluster answers{place} ({why}); {advice}")


def _refused(where: str, token: str | None) -> str:
    found = "requires a token, but none was sent" if token is None else "rejected the token"
    return f"{where}: the Ray cluster {found}; {GIVE_TOKEN}"


def _reason(error: BaseException) -> str:
    """The first error of a chain: "Connection refused", where the last one is a page."""
    while error.__context__ is not None:
        error = error.__context__
    return one_line(error, ANSWERED) or type(error).__name__


# Tokens and passwords


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
        where = f"RAY_AUTH_TOKEN_PATH={named}" if named else "~/.ray/auth_token"
        raise UserError(f"{where} {UNSENDABLE}")
    if named and not found:
        expected = "expected a file with the Ray cluster's token"
        raise UserError(f"RAY_AUTH_TOKEN_PATH={named} {why}; {expected}")
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


def without_password(url: str) -> str:
    """The URL without its user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address, such as one with half of a bracket
        return re.sub(r"//[^/]*@", "//", url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host).geturl() if host != parts.netloc else url
