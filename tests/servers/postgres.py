"""The machine's PostgreSQL, with a data folder and a password of its own, on 127.0.0.1."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import free_port, running

USER = "gpt1"


def programs() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    on_path, of_debian = shutil.which("initdb"), Path("/usr/lib/postgresql").glob("*/bin")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(of_debian, reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres(found: Path, log: Path) -> Iterator[str]:
    """The server of the folder `found`, with an empty data base; its address with password."""
    port, password = free_port(), secrets.token_hex(12)
    # PostgreSQL refuses to run as root, and its user must be able to enter the folder.
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="gpt1-postgres-") as name:
        folder, kept = Path(name), Path(name, "password")
        kept.write_text(password)
        if other:
            for path in (folder, kept):
                shutil.chown(path, "postgres")
        words = ["-D", folder / "data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={kept}"]
        initdb = [*other, found / "initdb", *words, "--no-sync", "--no-instructions"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        words = ["-D", folder / "data", "-p", port, "-k", folder]
        serve = [*other, found / "postgres", *words, "-c", "listen_addresses=127.0.0.1"]
        create = [found / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "mlflow"]
        known = {**os.environ, "PGPASSWORD": password}

        def created() -> bool:
            return subprocess.run(create, env=known, capture_output=True).returncode == 0

        with running(serve, log, cwd=Path("/"), ready=created):
            # SQLAlchemy's own choice of a driver is another one, which is not installed.
            yield f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/mlflow"
