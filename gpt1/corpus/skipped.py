"""The file of what gave no text: a line each, the first hundred of one kind in one file whole
and the rest counted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import IO

from gpt1.corpus.document import LEFT_OUT, Refused
from gpt1.errors import UserError

MOST = 100


class Refusals:
    """Writes records as they come.

    `on_error="stop"` raises at the first that is a fault (UserError).
    """

    def __init__(self, file: IO[bytes], on_error: str = "record") -> None:
        self._file, self._stop = file, on_error == "stop"
        self._same: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, refused: Refused) -> None:
        """Take one record."""
        if refused.rule not in LEFT_OUT:
            if self._stop:
                raise UserError(refused.sentence())
            if len(self.first) < 3:
                self.first.append(refused.sentence())
        self.counts[refused.rule] += 1
        self._same[refused.file, refused.rule] += 1
        if self._same[refused.file, refused.rule] <= MOST:
            self._write(asdict(refused))

    def close(self) -> None:
        """Write how many more there were than lines."""
        for (file, rule), number in sorted(self._same.items()):
            if number > MOST:
                self._write(
                    {
                        "file": file, "rule": rule,
                        "found": f"{number - MOST} more of the same kind", "more": number - MOST,
                    }
                )

    def _write(self, row: dict[str, object]) -> None:
        self._file.write(
            json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "backslashreplace")
            + b"\n"
        )
