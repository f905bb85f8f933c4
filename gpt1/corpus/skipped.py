"""The file of what could not be read: a line each, the first hundred of one kind in one file
complete and the rest counted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import IO, Any

from gpt1.corpus.document import LEFT_OUT, SkippedFile
from gpt1.errors import UserError

MOST = 100


class SkippedFiles:
    """Writes records as they come.

    `on_error="stop"` raises at the first that is a fault (UserError).
    """

    def __init__(self, file: IO[bytes], on_error: str = "record") -> None:
        self._file, self._stop = file, on_error == "stop"
        self._same: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, skipped: SkippedFile) -> None:
        """Take one record."""
        if skipped.rule not in LEFT_OUT:
            if self._stop:
                raise UserError(skipped.sentence())
            if len(self.first) < 3:
                self.first.append(skipped.sentence())
        self.counts[skipped.rule] += 1
        self._same[skipped.file, skipped.rule] += 1
        if self._same[skipped.file, skipped.rule] <= MOST:
            self._write(asdict(skipped))

    def close(self) -> dict[str, Any]:
        """Write how many more there were than lines; the counts by rule, and the first records as
        sentences.
        """
        for (file, rule), number in sorted(self._same.items()):
            if more := max(0, number - MOST):
                found = f"{more} more of the same kind"
                self._write({"file": file, "rule": rule, "found": found, "more": more})
        return {"refused": dict(sorted(self.counts.items())), "first_refused": self.first}

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, sort_keys=True)
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
