"""What pre-training is told: settings that shape the result, and where things lie.

Plain and picklable, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.schedule import Schedule

DEEPSPEED_FOLDER = Path(__file__).with_name("deepspeed")
"""DeepSpeed's settings for each ZeRO stage: zero0.json to zero3.json."""
PROMPTS = ("it was a dark and stormy night", "she looked at him and said", "the old man")


@dataclass(frozen=True)
class Prompt:
    """The beginning of a sample, as text and as ids of the vocabulary."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class PretrainConfig:
    """Everything the result depends on besides the shards.

    Defaults are the paper's (section 4.1).
    """

    model: ModelConfig
    max_steps: int
    batch_size: int = 64
    micro_batch_size: int = 8
    lr: float = 2.5e-4
    warmup_steps: int = 2000
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    validate_every: int = 1000
    validate_sequences: int = 256
    snapshot_every: int = 0
    prompts: tuple[Prompt, ...] = ()
    sample_tokens: int = 60
    sample_temperature: float = 0.8
    sample_top_k: int = 40
    optimizer: Literal["adamw", "reference"] = "adamw"
    loss_chunk_size: int = 0
    """Positions whose logits exist at one time; 0: all of a micro-batch."""
    pad_vocabulary: int = 0
    """The softmax computes a multiple of so many columns, the added ones masked; 0: as many as
    there are tokens.
    """
    compile: bool = False
    """torch.compile of the model and the loss."""
    exclude_books: tuple[str, ...] = ()
    """Ids of training books whose sequences stay in the batches but do not count in the loss."""
    initial_sha256: str = ""
    """Of the weights training begins with; empty: random ones."""
    max_rollbacks: int = 0
    """How often training may go back before a diverged loss and leave batches out; 0: it stops."""
    skip_batches: int = 2
    """Batches left out then: the last ones up to that of the diverged loss."""
    rollback_spike_threshold: float = 0.0
    """Nats above the mean of the steps before that count as diverged; 0: only a loss that is no
    number does.
    """


@dataclass(frozen=True)
class RuntimeConfig:
    """Where data lies and results go, how often to save, what memory is spent: nothing here
    changes the result, but for `deepspeed`'s ZeRO stage, which changes the order of sums.
    """

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
    """DeepSpeed's settings; empty: zero1.json of `DEEPSPEED_FOLDER`."""
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    """Minutes between two checkpoints, beside those by the step; 0: none by the clock."""
    keep_checkpoints: int = 2
    keep_every: int = 0
    """Checkpoints at multiples of so many updates are kept for good; 0: none are."""
    zero_on_one_rank: bool = False
    """Use DeepSpeed and its ZeRO stage on a rank alone too; else a rank alone computes without
    DeepSpeed, as ZeRO 0 does.
    """
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them; the
    numbers stay the same.
    """
    stop_after: int = 0
    """Stop, with a checkpoint, after so many updates of this process; 0: at the end."""
    loss_spike_threshold: float = 0.0
    """Stop when a step's loss is more than so many nats above the mean of the steps before; 0:
    only when it is no number. It decides nothing but whether to stop; what training goes back
    for is the configuration's.
    """
    init_from: str = ""
    """Folder of the checkpoint whose weights training begins with; empty: random ones."""
    run: str = ""
    """Name of the run in the records (the tracker's), kept in each checkpoint."""
    preflight: bool = True
    """Before training, refuse what cannot fit into the memory and measure how fast the ranks
    exchange numbers.
    """
    trace: bool = False
    """Write hashes of batches and random states into `trace/`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None


def to_json(config: PretrainConfig, place: RuntimeConfig) -> str:
    """Both as one JSON document, for `torchrun -m gpt1.train.pretrain --config FILE`."""
    return json.dumps({"config": asdict(config), "place": asdict(place)}, indent=2) + "\n"


def from_json(file: Path) -> tuple[PretrainConfig, RuntimeConfig]:
    """The inverse of `to_json`; paths that are not absolute are taken from the file's folder.

    Raises UserError for a missing file, bad JSON, or unknown or missing keys.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        values, place = dict(document["config"]), dict(document["place"])
        values["model"] = ModelConfig.from_dict(values["model"])
        values["prompts"] = tuple(
            Prompt(prompt["text"], tuple(prompt["ids"])) for prompt in values.get("prompts", ())
        )
        values["exclude_books"] = tuple(values.get("exclude_books", ()))
        for name in ("train", "held_out", "earlier"):
            place[name] = tuple(str(file.parent / path) for path in place.get(name, ()))
        single = [
            name
            for name in ("books", "vocabulary", "output", "deepspeed", "init_from")
            if place.get(name)
        ]
        place |= {name: str(file.parent / place[name]) for name in single}
        return PretrainConfig(**_known(file, PretrainConfig, values)), RuntimeConfig(
            **_known(file, RuntimeConfig, place)
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{file}: no such file; expected a JSON document with `config` and `place`"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: not a pre-training configuration ({error!r}); write it with"
            " pretrain_config.to_json"
        ) from error


def deepspeed_file(runtime: RuntimeConfig) -> Path:
    """DeepSpeed's settings."""
    return Path(runtime.deepspeed) if runtime.deepspeed else DEEPSPEED_FOLDER / "zero1.json"


def computes_alone(ranks: int, zero_on_one_rank: bool) -> bool:
    """Whether a training on this number of ranks does without DeepSpeed: it computes as ZeRO 0
    does, whatever stage is set.
    """
    return ranks == 1 and not zero_on_one_rank


def differing(saved: Mapping[str, Any], now: PretrainConfig) -> list[str]:
    """The fields in which a saved configuration (`asdict`, perhaps of an earlier version) is
    another one than `now`.

    A field that the earlier version did not know had the value that is its default.
    """
    ours = asdict(now)
    theirs = {
        **_defaults(PretrainConfig), **saved,
        "model": {**_defaults(ModelConfig), **saved.get("model", {})},
    }
    for values in (theirs, ours):  # in JSON a tuple is a list
        values["exclude_books"] = list(values["exclude_books"])
        values["prompts"] = len(values["prompts"])  # samples change no weight
    passing = {
        "model", "max_rollbacks", "skip_batches", "rollback_spike_threshold",
    }  # what was left out so far stands in the history
    found = [name for name in ours if name not in passing and theirs.get(name) != ours[name]]
    return found + [
        f"model.{name}"
        for name in ours["model"]
        if theirs["model"].get(name) != ours["model"][name]
    ]


def _defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def _known(file: Path, kind: type, values: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise UserError(
            f"{file}: unknown keys {unknown}; expected {[field.name for field in fields(kind)]}"
        )
    return values
