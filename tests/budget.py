"""pytest plug-in: `-p tests.budget --budget SECONDS` skips the tests that would begin after that time, and says so."""

from __future__ import annotations

import time

import pytest

BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option."""
    parser.addoption("--budget", type=float, default=None, metavar="SECONDS", help="skip tests that would begin later than this")


def pytest_configure(config: pytest.Config) -> None:
    """The clock starts."""
    config.stash[BEGAN] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that comes too late."""
    budget = item.config.getoption("--budget")
    if budget is not None and time.monotonic() - item.config.stash[BEGAN] > budget:
        pytest.skip(f"the budget of {budget:g} s is spent")
