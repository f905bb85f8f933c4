"""A page's `console` blocks: their commands, and whether what was printed is what they show.

A line that begins with `$ ` is a command, the lines under it are its output; `...` is for any lines
left out. `$ echo $?` shows the exit status of the command before, 0 where the page does not say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "..."
STATUS = "$ echo $?"
RUN = r"\b\d{8}-\d{6}-[0-9a-f]{4}\b"
DIGEST = r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\b"
TIME = r"(?:\d+h )?(?:\d+m )?\d+(?:\.\d+)?(?:s|m|h)"
SPAN = rf"(?<![\w.]){TIME}\b"
MASKS = (
    (rf"^\s*(?:{TIME}|[\d:]+)\s{{2}}(?=\S)", ""),  # the time since the start before a line of a run
    (r"(?<![\w.])/\S*/(?=[\w.])", ""),  # folders
    (rf"{RUN}|{DIGEST}", "#"),
    (rf"{SPAN}|\b\d+:\d\d(?::\d\d)?\b", "#"),
    (r"[\d,.]*\d", "#"),
    (r"\s+", " "),
)


@dataclass
class Step:
    """A command, the lines that the page shows under it, and how it ends."""

    command: str
    shown: list[str] = field(default_factory=list)
    status: int = 0


def steps(text: str) -> list[Step]:
    """The commands of a page, in order."""
    found: list[Step] = []
    for block in BLOCK.findall(text):
        asked = False
        for line in block.splitlines():
            if asked:
                found[-1].status = int(line)
            elif line.startswith("$ ") and line != STATUS:
                found.append(Step(line[2:]))
            elif line != STATUS:
                found[-1].shown.append(line)
            asked = line == STATUS
    return found


def masked(line: str) -> str:
    """A line without times, ids, folders, figures and the width of its columns."""
    for pattern, put in MASKS:
        line = re.sub(pattern, put, line)
    return line.strip()


def _same(printed: str, wanted: str) -> bool:
    """A line that ends with `...` is every line that begins in the same way."""
    begins = printed.startswith(wanted.removesuffix(LEFT_OUT))
    return begins if wanted.endswith(LEFT_OUT) else printed == wanted


def missing(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """The first line not printed where the page has it, or None. Blank lines do not count."""
    lines = [masked(line) for line in printed if line.strip()]
    place, loose = 0, False
    for line in shown:
        if line.strip() == LEFT_OUT:
            loose = True
        elif line.strip():
            wanted = masked(line)
            fits = (n for n in range(place, len(lines)) if _same(lines[n], wanted))
            at = next(fits, None)
            if at is None or (at > place and not loose):
                return line
            place, loose = at + 1, False
    return None if loose or place == len(lines) else f"(the page ends before) {lines[place]}"
