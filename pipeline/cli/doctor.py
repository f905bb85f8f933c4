"""`gpt1 doctor`: checks this machine for what would stop or slow a run, and says how to fix it."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import typer

from gpt1.errors import UserError
from gpt1.terminal import show
from pipeline.cli.options import Json, StoreOption
from pipeline.cli.output import format_table, print_json
from pipeline.execution import ray_access
from pipeline.store.base import Store

OK, WARN, FAIL = "ok", "warn", "fail"
GB = 1e9
PYTHONS = ((3, 11), (3, 12))
SHM_NEEDED, FILES_NEEDED, DISK_NEEDED, MEMORY_NEEDED = 0.5 * GB, 4096, 5 * GB, 6 * GB
PORTS = {5000: "gpt1 ui", 8265: "Ray dashboard and job server"}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    `state`: ok, warn (a run works, or works slower) or fail (it does not); `fix`: what to do.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


def doctor(store: StoreOption = "store", as_json: Json = False) -> None:
    """Check this machine (Python, packages, GPU, memory, limits, disk, ports) and suggest fixes.

    Exit status: 1 if something would stop a run.
    """
    findings = [*(finding for check in CHECKS for finding in check()), *_store(store)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = []
        for one in findings:
            rows.append((one.state, one.name, one.detail))
            if one.fix:
                rows.append(("", "", f"-> {one.fix}"))
        show(format_table(rows))
    raise typer.Exit(int(any(finding.state == FAIL for finding in findings)))


def _finding(name: str, good: bool, detail: str, fix: str, otherwise: str = WARN) -> Finding:
    return Finding(name, OK, detail) if good else Finding(name, otherwise, detail, fix)


def _python() -> Iterator[Finding]:
    fix = "recreate the environment with 3.11 or 3.12: make install PYTHON=python3.12"
    detail = f"{platform.python_version()} ({sys.executable})"
    yield _finding("Python", sys.version_info[:2] in PYTHONS, detail, fix, FAIL)


def _packages() -> Iterator[Finding]:
    for name in ("torch", "deepspeed", "ray", "mlflow"):
        try:
            yield Finding(name, OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, FAIL, "not installed", "make install")


def _cuda() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    cards = _nvidia_smi()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield Finding("CUDA", OK, f"{torch.version.cuda}: {', '.join(names)}")
    elif not cards:
        yield Finding("CUDA", OK, "no GPU; the demo profile does not need one")
    elif torch.version.cuda is None:
        fix = "install the CUDA build: rm -rf .venv, then make install without TORCH_INDEX"
        yield Finding("CUDA", WARN, f"{cards}, but torch {torch.__version__} is a CPU build", fix)
    else:
        fix = "update the driver; in a container, pass the GPUs through (--gpus all)"
        yield Finding("CUDA", WARN, f"{cards}, but torch {torch.__version__} cannot use it", fix)


def _nvidia_smi() -> str:
    """The first GPU that the driver knows; empty where there is none."""
    command = ["nvidia-smi", "-L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def _memory() -> Iterator[Finding]:
    with suppress(ImportError):  # torch is missing, which another check says
        import torch

        from gpt1.train.memory import free_memory

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = free_memory(torch.device("cpu")) or total
        detail = f"{free / GB:.1f} GB free here; the machine has {total / GB:.1f} GB"
        fix = "the demo needs about 6 GB; end other programs, or give the container more"
        yield _finding("memory", free >= MEMORY_NEEDED, detail, fix)
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        fix = "start the container with --shm-size=2g; Ray's objects on disk are slower"
        detail = f"{size / GB:.2f} GB in /dev/shm"
        yield _finding("shared memory", size >= SHM_NEEDED, detail, fix)


def _files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft == resource.RLIM_INFINITY or soft >= FILES_NEEDED
    most, fix = ("none", FILES_NEEDED) if hard == resource.RLIM_INFINITY else (hard, hard)
    detail = f"limit {soft} (hard limit {most}); Ray needs {FILES_NEEDED}"
    yield _finding("open files", good, detail, f"ulimit -n {min(fix, 65536)}")


def _store(store: str) -> Iterator[Finding]:
    try:
        opened = Store.at(store)
    except UserError as error:
        yield Finding("store", FAIL, str(error), "choose another store with --store")
        return
    name, folder, option = "store", opened.root, "--store"
    if not opened.shared:
        yield Finding("store", OK, f"{opened.where} answers")
        name, option = "cache", "GPT1_CACHE"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    problem = ray_access.why_not_writable(folder)
    detail = f"{folder} {problem or 'is writable'}"
    yield _finding(name, not problem, detail, f"choose another folder with {option}", FAIL)
    free = shutil.disk_usage(folder).free
    needs = "the demo writes 0.3 GB, and each checkpoint of the 117 M model about 1.4 GB"
    fix = f"{needs}; free up space, or choose another disk with {option}"
    yield _finding("disk", free >= DISK_NEEDED, f"{free / GB:.1f} GB free for the {name}", fix)


def _ray() -> Iterator[Finding]:
    folder, problem = ray_access.temporary_folder()
    detail = f"{folder} {problem or 'is writable'}"
    yield _finding("Ray folder", not problem, detail, ray_access.OTHER_FOLDER, FAIL)
    try:
        mode, token = ray_access.auth_mode(), ray_access.user_token()
    except UserError as error:
        yield Finding("Ray token", FAIL, str(error), "fix or unset the variable")
        return
    detail = "yours" if mode and token else "each run creates its own"
    if mode == "disabled":
        danger = "during a run, other users of this machine can run programs as you"
        detail = f"none (RAY_AUTH_MODE=disabled); {danger}"
    fix = "unset RAY_AUTH_MODE, so that each run creates its own token"
    yield _finding("Ray token", mode != "disabled", detail, fix)


def _ports() -> Iterator[Finding]:
    from pipeline.cli.ui import why_not_free

    for port, server in PORTS.items():
        problem = why_not_free("127.0.0.1", port)
        fix = "gpt1 ui --port PORT" if port == 5000 else ""
        detail = f"{'in use' if problem else 'free'} ({server})"
        yield _finding(f"port {port}", not problem, detail, fix)


def _tracking() -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield Finding("MLflow server", OK, "SQLite in the store (MLFLOW_TRACKING_URI is not set)")
        return
    shown = ray_access.without_password(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme in ("http", "https"):
            socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except (OSError, ValueError) as error:
        later = "runs work without it, and `gpt1 track sync` sends their records later"
        fix = f"start it, or unset MLFLOW_TRACKING_URI; {later}"
        yield Finding("MLflow server", WARN, f"{shown} does not answer ({error})", fix)
    else:
        yield Finding("MLflow server", OK, f"{shown} answers")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, _cuda, _memory, _files, _ray, _ports, _tracking,
)  # fmt: skip
