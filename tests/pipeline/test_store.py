"""What belongs to a store in a folder alone; test_store_contract.py has what all stores promise."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import psutil
import pytest

from gpt1.errors import UserError
from pipeline.files import create_once, read_json
from pipeline.lease import alive
from pipeline.parts import Outputs
from pipeline.store import Store


def test_outputs_stay_in_their_folder_and_are_written_once(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    for name in ("../outside", "/outside", "a/../../outside"):
        with pytest.raises(ValueError, match="leaves the attempt's folder"):
            outputs.declare(name, volatile=False)
    outputs.declare("twice", volatile=False).write_text("1")
    with pytest.raises(ValueError, match="used twice"):
        outputs.declare("twice", volatile=False)


def _write_half(outputs: Outputs) -> None:
    with outputs.open("half") as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_a_file_of_a_failed_block_is_no_output(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _write_half(outputs)
    assert outputs.close() == {}


def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a store"):
        Store.at(tmp_path / "file" / "store")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert Store.at(f"file://{tmp_path}/a%20store").root == (tmp_path / "a store").resolve()


def test_a_holder_of_this_machine_is_its_process() -> None:
    me = psutil.Process()
    assert alive({"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "beat": 0})
    assert not alive({"host": socket.gethostname(), "pid": me.pid, "started": me.create_time() - 100, "beat": time.time()})


def test_create_once_never_shows_a_half_file(tmp_path: Path) -> None:
    assert create_once(tmp_path / "x.json", {"a": 1})
    assert not create_once(tmp_path / "x.json", {"a": 2})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "y.json").write_text(json.dumps({"a": 1})[:-1])
    assert read_json(tmp_path / "y.json") is None
