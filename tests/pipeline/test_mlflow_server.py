"""The store's own MLflow data base: damaged or gone it is made again; another's is left alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.store.base import Store
from pipeline.tracking import mlflow_server
from pipeline.tracking.mlflow_server import DATA_BASE, MlflowServer, default_uri, is_damage
from tests.conftest import refuses
from tests.pipeline.conftest import Patch


def tear_a_table(file: Path) -> None:
    """All but the first page, so that it opens and reads as a data base for a while."""
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    file.write_bytes(data)


def used(server: MlflowServer, name: str) -> str:
    """The id of a new run of the server."""
    return str(server.client.create_run(server.experiment_id, run_name=name).info.run_id)


def names(server: MlflowServer) -> list[str]:
    found = server.client.search_runs([server.experiment_id])
    return sorted(run.info.run_name for run in found)


@pytest.mark.parametrize("harm", [tear_a_table, Path.unlink])
def test_the_stores_own_data_base_is_made_again(tmp_path: Path, harm: Callable[..., None]) -> None:
    """By another process that finds it, and by the one that is connected."""
    store, said = Store.at(tmp_path / "a %20 store"), list[str]()
    file = store.root / DATA_BASE
    first = MlflowServer(store, default_uri(store.root), said.append)
    used(first, "lost")
    journal = file.with_name(f"{DATA_BASE}-journal")
    journal.write_bytes(b"of the old one")
    harm(file)
    second = MlflowServer(store, default_uri(store.root), said.append)
    used(second, "second")
    assert not journal.exists()
    before = first.client
    used(first, "first")
    assert names(first) == names(second) == ["first", "second"]
    assert first.client is before
    aside = list(store.root.glob(f"{DATA_BASE}.damaged-*"))
    assert len(said) == len(aside) == (harm is not Path.unlink)
    assert all(f"{file}: the MLflow data base is damaged" in line for line in said)


def test_damage_while_connected_is_told_from_other_trouble(
    tmp_path: Path, empty_data_base: Path
) -> None:
    said = list[str]()
    shutil.copy(empty_data_base, tmp_path)
    server = MlflowServer(Store.at(tmp_path), default_uri(tmp_path), said.append)
    used(server, "lost")
    assert not server.set_aside_damaged()
    with pytest.raises(Exception, match="No Experiment") as caught:
        server.client.create_run("77")
    assert not is_damage(caught.value)
    tear_a_table(tmp_path / DATA_BASE)
    mlflow_server._forget(server.uri)  # else its pages are in memory
    with pytest.raises(Exception, match=r"malformed|not a database") as caught:
        used(server, "refused")
    assert is_damage(caught.value)
    assert server.set_aside_damaged()
    used(server, "new")
    assert names(server) == ["new"]
    assert len(said) == 1


def test_another_data_base_is_never_renamed(tmp_path: Path) -> None:
    other, store = tmp_path / "other", Store.at(tmp_path / "store")
    first = MlflowServer(store, default_uri(other), lambda line: pytest.fail(line))
    used(first, "theirs")
    assert other.stat().st_mode & 0o777 == 0o700
    (other / DATA_BASE).write_text("not SQLite's\n" * 1000)
    with pytest.raises(Exception, match="not a database") as caught:
        names(MlflowServer(store, first.uri, lambda line: pytest.fail(line)))
    assert is_damage(caught.value)
    assert not first.set_aside_damaged()
    assert [file.name for file in other.iterdir() if not file.name.startswith(".")] == [DATA_BASE]


def test_a_version_never_tried_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(mlflow_server, "TRIED", ("2.0.0",))
    server = MlflowServer(Store.at(tmp_path), default_uri(tmp_path), print)
    refuses("not a version that gpt1 was tried with; expected 2.0.0", lambda: server.client)
