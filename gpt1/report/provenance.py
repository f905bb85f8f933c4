"""Where every figure came from: each cell with its fingerprint, the digest of its content, and
its settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gpt1.report.sources import Source


def provenance_facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row a cell, in the order given."""
    return [
        {
            "stage": source.kind, "cell": source.cell, "fingerprint": source.fingerprint,
            "digest": source.digest, "settings": dict(source.settings),
        }
        for source in sources
    ]  # fmt: skip


def settings_line(settings: dict[str, Any]) -> str:
    """`key=value, key=value` of the settings that say something; nested ones as JSON."""
    told = {name: value for name, value in settings.items() if value not in (None, "", [], {})}
    return ", ".join(f"{name}={_shown(value)}" for name, value in told.items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
