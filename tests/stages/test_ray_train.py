"""What the ranks of a training leave for the driver when they end early."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.errors import StoppedError, UserError
from stages._ray_train import REFUSAL, STOPPED, _refusal


@pytest.mark.parametrize(("name", "kind"), [(STOPPED, StoppedError), (REFUSAL, UserError)])
def test_a_stop_is_no_refusal(tmp_path: Path, name: str, kind: type[UserError]) -> None:
    assert _refusal(tmp_path, None) is None
    (tmp_path / name).write_text("after step 3")
    found = _refusal(tmp_path, None)
    assert (type(found), str(found)) == (kind, "after step 3")
