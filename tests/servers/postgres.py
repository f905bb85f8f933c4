"""PostgreSQL of the machine (Debian's package), with a data folder and a password of its own, on 127.0.0.1."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.process import free_port, running, wait_until

USER = "gpt1"


def programs() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres(log: Path) -> Iterator[str]:
    """A server with an empty data base; its address, password included. Skips where PostgreSQL is not installed."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    port, password = free_port(), secrets.token_hex(12)
    # PostgreSQL refuses to run as root, and its user must be able to enter the folder.
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="gpt1-postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if other:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        command = [found / "initdb", "-D", folder / "data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        words = [*other, *map(str, command), "--no-sync", "--no-instructions"]
        subprocess.run(words, check=True, capture_output=True, cwd="/")
        serve = [found / "postgres", "-D", folder / "data", "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        with running([*other, *map(str, serve)], log, cwd=Path("/")) as process:
            address = f"postgresql://{USER}:{password}@127.0.0.1:{port}"
            wait_until(lambda: _makes_database(address), "PostgreSQL", process, log)
            # The driver is named: SQLAlchemy's own choice is another one, which is not installed.
            yield f"{address}/mlflow".replace("postgresql:", "postgresql+psycopg2:")


def _makes_database(address: str) -> bool:
    import psycopg2

    try:
        connection = psycopg2.connect(f"{address}/postgres", connect_timeout=2)
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE mlflow")
    connection.close()
    return True
