"""pytest plug-in: `-p tests.limits --limit SECONDS --allowed-skips FILE`.

Limits fail, they never skip. A run of more than SECONDS fails when it ends. A skip fails it unless
FILE has a pattern for its reason: one regular expression a line, ` # ` and why it is allowed.
The 20 slowest tests are printed.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    parser.addoption("--limit", type=float, metavar="SECONDS", help="fail if the run takes longer")
    parser.addoption("--allowed-skips", type=Path, metavar="FILE", help="fail for any other skip")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the run; not in the processes that pytest-xdist starts, whose reports come here."""
    if not hasattr(config, "workerinput"):
        config.option.durations = config.option.durations or 20
        limit, allowed = config.getoption("--limit"), config.getoption("--allowed-skips")
        config.pluginmanager.register(Limits(limit, read_patterns(allowed) if allowed else None))


def read_patterns(file: Path) -> list[str]:
    """The patterns of a list of allowed skips. Raises UsageError for a line without why."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition(" # ") for line in lines if line and not line.startswith("#")]
    if bare := [pattern for pattern, _, why in pairs if not why.strip()]:
        raise pytest.UsageError(f"{file}: {bare[0]!r} does not say why (expected: PATTERN # why)")
    return [pattern.strip() for pattern, _, _ in pairs]


class Limits:
    """The clock and the skips of one run."""

    def __init__(self, limit: float | None, allowed: list[str] | None) -> None:
        self._began = time.monotonic()
        self._limit, self._allowed = limit, allowed
        self._faults: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at a test's reason to be skipped."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._look_at(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at a file's reason to be skipped."""
        if report.skipped:
            self._look_at(report)

    def _look_at(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        allowed = self._allowed
        if allowed is not None and not any(re.search(pattern, reason) for pattern in allowed):
            self._faults.append(f"{report.nodeid}: skipped, which is not allowed: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run."""
        seconds = time.monotonic() - self._began
        if self._limit is not None and seconds > self._limit:
            self._faults.append(f"the run took {seconds:.0f} s, more than its {self._limit:g} s")
        if self._faults and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        if self._faults:
            terminalreporter.section("limits", red=True)
            terminalreporter.write_line("\n".join(self._faults))
