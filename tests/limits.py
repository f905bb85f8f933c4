"""pytest plug-in: `-p tests.limits --limit SECONDS --allowed-skips FILE`.

Limits fail, they never skip. A run of more than SECONDS fails when it ends. A skip fails it unless
FILE has a pattern for its reason: one regular expression a line, ` # ` and why it is allowed.
The 20 slowest tests are printed.
"""

import re
import time
from pathlib import Path

import pytest

Report = pytest.TestReport | pytest.CollectReport


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    parser.addoption("--limit", type=float, default=1e9, help="seconds a run may take")
    parser.addoption("--allowed-skips", type=Path, metavar="FILE", help="fail for any other skip")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the run; not in the processes that pytest-xdist starts, whose reports come here."""
    if not hasattr(config, "workerinput"):
        config.option.durations = config.option.durations or 20
        limit, allowed = config.getoption("--limit"), config.getoption("--allowed-skips")
        config.pluginmanager.register(Limits(limit, read_patterns(allowed) if allowed else [""]))


def read_patterns(file: Path) -> list[str]:
    """The patterns of a list of allowed skips. Raises UsageError for a line without why."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition(" # ") for line in lines if line and not line.startswith("#")]
    if bare := [pattern for pattern, _, why in pairs if not why.strip()]:
        raise pytest.UsageError(f"{file}: {bare[0]!r} does not say why (expected: PATTERN # why)")
    return [pattern.strip() for pattern, _, _ in pairs]


class Limits:
    """The clock and the skips of one run."""

    def __init__(self, limit: float, allowed: list[str]) -> None:
        self._began = time.monotonic()
        self._limit, self._allowed = limit, allowed
        self._faults: list[str] = []

    def pytest_runtest_logreport(self, report: Report) -> None:
        """Look at the reason of what is skipped: a test, or (below) a file."""
        if report.skipped and not hasattr(report, "wasxfail"):
            place = report.longrepr
            reason = str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")
            if not any(re.search(pattern, reason) for pattern in self._allowed):
                self._faults.append(f"{report.nodeid}: skipped, which is not allowed: {reason}")

    pytest_collectreport = pytest_runtest_logreport

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run."""
        seconds = time.monotonic() - self._began
        if seconds > self._limit:
            self._faults.append(f"the run took {seconds:.0f} s, more than its {self._limit:g} s")
        if self._faults and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        if self._faults:
            terminalreporter.section("limits", red=True)
            terminalreporter.write_line("\n".join(self._faults))
