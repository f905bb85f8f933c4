"""After every fault in the middle of pre-training: the bytes and the points of an undisturbed training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.faults import FAULTS, Calm, Fault, trial

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(hosts: Cluster, undisturbed: Calm, fault: Fault, tmp_path: Path) -> None:
    outcome = trial(hosts, fault, undisturbed, tmp_path)
    assert outcome.right, outcome
    assert outcome.recovered is not None or fault.name == "mlflow", outcome
