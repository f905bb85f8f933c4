"""Fixtures of the model and its training."""

from collections.abc import Iterator

import pytest

from tests.gpt1.rank_group import RankGroup


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankGroup]:
    """Two processes that train together, started once for all tests."""
    group = RankGroup(2)
    yield group
    group.kill()
