"""What pre-training is told: settings that shape the result, and where things lie. Plain and picklable, without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.schedule import Schedule

PROMPTS = ("it was a dark and stormy night", "she looked at him and said", "the old man")


@dataclass(frozen=True)
class Prompt:
    """The beginning of a sample, as text and as ids of the vocabulary."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class PretrainConfig:
    """Everything the result depends on besides the shards. Defaults are the paper's (SPEC section 3)."""

    model: ModelConfig
    steps: int
    batch: int = 64
    micro_batch: int = 8
    max_lr: float = 2.5e-4
    warmup: int = 2000
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    validate_every: int = 1000
    validate_windows: int = 256
    snapshot_every: int = 0
    prompts: tuple[Prompt, ...] = ()
    sample_tokens: int = 60
    temperature: float = 0.8
    top_k: int = 40


@dataclass(frozen=True)
class Place:
    """Where data lies and results go, and how often to save: nothing here changes the result, but for `deepspeed`'s ZeRO stage,
    which changes the order of sums."""

    train: tuple[str, ...]
    """Token shards of the training set."""
    held_out: tuple[str, ...]
    """Token shards of the held-out set."""
    books: str
    """books.parquet of the shards."""
    vocabulary: str
    """Folder with the vocabulary's two files."""
    output: str
    """Folder for the outputs, and for `checkpoints/`; shared by all ranks."""
    earlier: tuple[str, ...] = ()
    """`checkpoints` folders of earlier attempts at the same thing, oldest first; only read."""
    deepspeed: str = ""
    """DeepSpeed's settings; empty: infra/deepspeed/zero1.json of this repository."""
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None


def to_json(config: PretrainConfig, place: Place) -> str:
    """Both as one JSON document, for `torchrun -m gpt1.train.pretrain --config FILE`."""
    return json.dumps({"config": asdict(config), "place": asdict(place)}, indent=2) + "\n"


def from_json(file: Path) -> tuple[PretrainConfig, Place]:
    """The inverse of `to_json`. Raises UserError for a missing file, bad JSON, or unknown or missing keys."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        values, place = dict(document["config"]), dict(document["place"])
        values["model"] = ModelConfig.from_dict(values["model"])
        values["prompts"] = tuple(Prompt(prompt["text"], tuple(prompt["ids"])) for prompt in values.get("prompts", ()))
        for name in ("train", "held_out", "earlier"):
            place[name] = tuple(place.get(name, ()))
        return PretrainConfig(**_known(file, PretrainConfig, values)), Place(**_known(file, Place, place))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; expected a JSON document with `config` and `place`") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: no configuration of pre-training ({error!r}); write it with pretrain_config.to_json") from error


def _known(file: Path, kind: type, values: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise UserError(f"{file}: unknown keys {unknown}; expected {[field.name for field in fields(kind)]}")
    return values
