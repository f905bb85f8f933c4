"""`gpt1 doctor`: looks at this machine and says, for each finding that would stop or slow a run,
how to fix it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpt1.errors import UserError
from pipeline.cli.options import Json
from pipeline.execution.ray_access import OTHER_FOLDER, temporary_folder
from pipeline.execution.ray_auth import auth_mode, user_token

OK, WARN, FAIL = "ok", "warn", "fail"
GB = 1e9
PYTHONS = ((3, 11), (3, 12))
SHM_NEEDED, FILES_NEEDED, DISK_NEEDED, MEMORY_NEEDED = 0.5 * GB, 4096, 5 * GB, 6 * GB
PORTS = ((5000, "gpt1 ui"), (8265, "Ray dashboard and job server"))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `state`: ok, warn (a run works, or works slower) or fail (it does not); `fix`: what to do.
    """

    name: str
    state: str
    found: str
    fix: str = ""


def doctor(
    store: Annotated[
        Path, typer.Option("--store", "-s", help="Folder of all results.", envvar="GPT1_STORE")
    ] = Path("store"),
    as_json: Json = False,
) -> None:
    """Check this machine (Python, packages, GPU, memory, limits, disk, ports) and suggest fixes.

    Exit status: 1 if something would stop a run.
    """
    findings = [finding for look in LOOKS for finding in look(store)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.state:<4}  {finding.name:<{width}}  {finding.found}")
            if finding.fix:
                print(f"{'':<4}  {'':<{width}}  -> {finding.fix}")
    raise typer.Exit(int(any(finding.state == FAIL for finding in findings)))


def _python(_: Path) -> Iterator[Finding]:
    version, place = platform.python_version(), sys.executable
    if sys.version_info[:2] in PYTHONS:
        yield Finding("Python", OK, f"{version} ({place})")
    else:
        yield Finding(
            "Python", FAIL, f"{version}; expected 3.11 or 3.12",
            "recreate the environment: make install PYTHON=python3.12",
        )


def _packages(_: Path) -> Iterator[Finding]:
    from importlib import metadata

    for name in ("torch", "deepspeed", "ray", "mlflow"):
        try:
            yield Finding(name, OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, FAIL, "not installed", "make install")


def _cuda(_: Path) -> Iterator[Finding]:
    cards = _nvidia_smi()
    if importlib.util.find_spec("torch") is None:
        return
    import torch

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
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return (
        done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""
    )


def _memory(_: Path) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    usable = min(total, limit) if limit else total
    found = f"{usable / GB:.1f} GB" + (
        f" (container limit; the machine has {total / GB:.1f} GB)" if usable < total else ""
    )
    low = usable < MEMORY_NEEDED
    yield Finding(
        "memory", WARN if low else OK, found,
        "the demo needs about 6 GB; give the container more" if low else "",
    )
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        low = size < SHM_NEEDED
        fix = (
            "start the container with --shm-size=2g; otherwise Ray keeps its objects on disk, which"
            " is slower"
            if low
            else ""
        )
        yield Finding("shared memory", WARN if low else OK, f"{size / GB:.2f} GB in /dev/shm", fix)


def _cgroup_limit() -> int | None:
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return None


def _files(_: Path) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "none" if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= FILES_NEEDED:
        yield Finding("open files", OK, f"limit {soft}")
        return
    fix = f"ulimit -n {FILES_NEEDED if hard == resource.RLIM_INFINITY else min(hard, 65536)}"
    yield Finding(
        "open files", WARN, f"limit {soft} (hard limit {most}); Ray needs {FILES_NEEDED}", fix
    )


def _store(store: Path) -> Iterator[Finding]:
    place = store.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield Finding("store", FAIL, f"{place} is a file", "choose a folder with --store")
        return
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Finding(
            "store", FAIL, f"{place} is not writable ({error.strerror})",
            "choose another folder with --store",
        )
        return
    yield Finding("store", OK, f"{place} is writable")
    free = shutil.disk_usage(place).free
    low = free < DISK_NEEDED
    fix = (
        "the demo writes 0.3 GB, and each checkpoint of the 117 M model about 1.4 GB; free up"
        " space, or choose another disk with --store"
    )
    yield Finding(
        "disk", WARN if low else OK, f"{free / GB:.1f} GB free for the store", fix if low else ""
    )


def _ray(_: Path) -> Iterator[Finding]:
    folder, fault = temporary_folder()
    if fault:
        yield Finding("Ray folder", FAIL, f"{folder} {fault}", OTHER_FOLDER)
    else:
        yield Finding("Ray folder", OK, f"{folder} is writable")
    try:
        mode, token = auth_mode(), user_token()
    except UserError as error:
        yield Finding("Ray token", FAIL, str(error), "fix or unset the variable")
        return
    if mode == "disabled":
        found = (
            "none (RAY_AUTH_MODE=disabled); during a run, other users of this machine can run"
            " programs as you"
        )
        yield Finding(
            "Ray token", WARN, found, "unset RAY_AUTH_MODE, so that each run creates its own token"
        )
    else:
        yield Finding("Ray token", OK, "yours" if mode and token else "each run creates its own")


def _ports(_: Path) -> Iterator[Finding]:
    for port, what in PORTS:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                yield Finding(
                    f"port {port}", WARN, f"in use ({what})",
                    "gpt1 ui --port PORT" if port == 5000 else "",
                )
            else:
                yield Finding(f"port {port}", OK, f"free ({what})")


def _tracking(_: Path) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield Finding("MLflow server", OK, "SQLite in the store (MLFLOW_TRACKING_URI is not set)")
        return
    host, __, port = uri.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")
    try:
        socket.create_connection(
            (host, int(port or (443 if uri.startswith("https") else 80))), timeout=5
        ).close()
    except (OSError, ValueError) as error:
        fix = (
            "start it, or unset MLFLOW_TRACKING_URI; runs work without it, and `gpt1 track sync`"
            " sends their records later"
        )
        yield Finding("MLflow server", WARN, f"{host}:{port} does not answer ({error})", fix)
    else:
        yield Finding("MLflow server", OK, f"{host}:{port} answers")


LOOKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python, _packages, _cuda, _memory, _files, _store, _ray, _ports, _tracking,
)  # fmt: skip
