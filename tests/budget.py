"""pytest plug-in: `-p tests.budget --budget SECONDS` skips the tests that would begin after that time, and says so.

The parts come before the whole: should the time not do, each part has been tested.
"""

from __future__ import annotations

import time

import pytest

BEGAN = pytest.StashKey[float]()
WHOLE = ["e2e", "cluster"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option."""
    parser.addoption("--budget", type=float, default=None, metavar="SECONDS", help="skip tests that would begin later than this")


def pytest_configure(config: pytest.Config) -> None:
    """The clock starts."""
    config.stash[BEGAN] = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what runs the whole last."""
    if config.getoption("--budget") is not None:
        items.sort(key=lambda item: WHOLE.index(item.path.parent.name) if item.path.parent.name in WHOLE else -1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that comes too late."""
    budget = item.config.getoption("--budget")
    if budget is not None and time.monotonic() - item.config.stash[BEGAN] > budget:
        pytest.skip(f"the budget of {budget:g} s is spent")
