"""Pre-training: its settings, and where its data and results are.

No torch: a plan reads settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig, ModelKind, import_variant
from gpt1.settings import CODE_OF_2018, DEBUG_FIELD, Settings, paper, runtime_field

PAPER_BATCH = 64
PROMPTS = ("it was a dark and stormy night", "she looked at him and said", "the old man")
"""The beginnings of samples of text."""
FOLLOWS_FROM = {
    "train_batch_size": "batch_size", "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "micro_batch_size", "gradient_clipping": "grad_clip",
    "bf16": "precision", "fp16": "precision", "optimizer": "optimizer", "scheduler": "schedule",
}
"""Keys of DeepSpeed's configuration, and the setting that each follows from."""
OVERRIDES = (
    "zero_optimization", "aio", "comms_logger", "flops_profiler", "gradient_predivide_factor",
    "memory_breakdown", "prescale_gradients", "steps_per_print", "wall_clock_breakdown",
)
"""Keys that a user may override; DeepSpeed ignores a key that it does not know."""
Precision = Literal["fp32", "bf16"]
Schedule = Literal["cosine", "linear", "constant"]


class PretrainConfig(Settings):
    """The settings of pre-training, of `gpt1.train.pretrain` and of the stage `pretrain`.

    The defaults are the paper's (section 4.1; the schedule of figure 2).
    """

    model: ModelKind = Field("gpt", json_schema_extra=paper("table 5"))
    """The Transformer (`gpt`); the one-layer LSTM of the paper's ablation, which ignores `layers`
    and `heads` (`lstm`); or a variant of your own, `FILE.py:CLASS` (docs/how-to/variant.md), whose
    file is fingerprinted by content.
    """
    units: int = Field(2048, ge=8, le=16_384, json_schema_extra=paper("table 5"))
    """LSTM units."""
    layers: int = Field(12, ge=1, le=96, json_schema_extra=paper("4.1"))
    """Number of blocks."""
    width: int = Field(768, ge=8, le=16_384, json_schema_extra=paper("4.1"))
    """Hidden size; a multiple of `heads`."""
    heads: int = Field(12, ge=1, le=256, json_schema_extra=paper("4.1"))
    """Attention heads per block."""
    context: int = Field(512, ge=2, le=8_192, json_schema_extra=paper("4.1"))
    """Tokens per training sequence, and the model's context."""
    dropout: float = Field(0.1, ge=0, lt=1, json_schema_extra=paper("4.1"))
    """Dropout on embeddings, attention weights and sublayer outputs."""
    embedding_dropout: Literal["activation", "matrix"] = Field(
        "activation", json_schema_extra=CODE_OF_2018,
    )
    """Apply dropout to the summed embeddings, or to the embedding matrix as in the 2018 code."""
    init_std: float = Field(0.02, gt=0, lt=1, json_schema_extra=paper("4.1"))
    """Standard deviation of weight initialization; narrow models need more."""
    batch_size: int = Field(64, ge=1, le=65_536, json_schema_extra=paper("4.1"))
    """Sequences per step, over all ranks."""
    lr_scaling: Literal["none", "sqrt"] = "none"
    """When `batch_size` is not 64: `none` keeps steps, warmup and learning rate; `sqrt` keeps the
    tokens and multiplies the rate by sqrt(batch_size/64).
    """
    micro_batch_size: int = Field(8, ge=1, le=65_536)
    """Sequences per forward pass; must divide `batch_size`."""
    max_steps: int = Field(1_000_000, ge=1, le=100_000_000, json_schema_extra=paper("figure 2"))
    """Number of optimizer steps."""
    lr: float = Field(2.5e-4, gt=0, le=1, json_schema_extra=paper("4.1"))
    """Peak learning rate, after the warmup."""
    warmup_steps: int | None = Field(None, ge=0, le=10_000_000, json_schema_extra=paper("4.1"))
    """Linear warmup steps; default: set by `warmup_ratio`."""
    warmup_ratio: float = Field(0.002, ge=0, lt=1, json_schema_extra=paper("4.1"))
    """Warmup as a fraction of `max_steps`."""
    schedule: Schedule = Field("cosine", json_schema_extra=paper("4.1"))
    """Learning-rate schedule after the warmup."""
    weight_decay: float = Field(0.01, ge=0, le=1, json_schema_extra=paper("4.1"))
    """Decoupled weight decay for tensors with two or more dimensions."""
    optimizer: Literal["adamw", "reference"] = Field("adamw", json_schema_extra=CODE_OF_2018)
    """torch's fused AdamW, or the Adam of the 2018 code."""
    grad_clip: float = Field(1.0, ge=0, le=1_000, json_schema_extra=CODE_OF_2018)
    """Maximum gradient norm (0 disables clipping)."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Seed for weights, data order, dropout and samples."""
    exclude_books: tuple[str, ...] = ()
    """IDs of training books (in books.parquet) to keep out of the loss; batches stay the same."""
    precision: Precision = "fp32"
    """Compute precision; weights stay in fp32."""
    zero: Literal[0, 1, 2, 3] = 1
    """DeepSpeed's ZeRO stage on several ranks; changes the last bits of results."""
    deepspeed: dict[str, Any] = Field({})
    """Overrides of DeepSpeed's configuration on several ranks, such as `{zero_optimization:
    {overlap_comm: false}}`.
    """
    loss_chunk_size: int = Field(0, ge=0, le=2**24)
    """Compute logits for this many positions at a time to save memory; 0: all at once. Changes the
    last bits of results.
    """
    pad_vocabulary: int = Field(0, ge=0, le=4_096)
    """Pad the softmax with masked tokens to a multiple of N (64 for GPUs); 0: no padding."""
    compile: bool = False
    """Use torch.compile: faster on GPUs; changes the last bits of results."""
    zero_on_one_rank: bool = Field(False, json_schema_extra=DEBUG_FIELD)
    """Use DeepSpeed on a single rank too, instead of plain torch."""
    log_every: int = Field(10, ge=1, le=1_000_000, json_schema_extra=DEBUG_FIELD)
    """Log metrics every N steps; the loss is averaged over them."""
    validate_every: int = Field(2_000, ge=0, le=10_000_000)
    """Validate and sample text every N steps; 0: only at the end."""
    validate_sequences: int = Field(512, ge=0, le=10_000_000)
    """Held-out sequences per validation, evenly spaced; 0: all. The last validation uses all."""
    sample_tokens: int = Field(60, ge=0, le=4_096)
    """Tokens per text sample; 0: no samples."""
    sample_temperature: float = Field(0.8, ge=0, le=10, json_schema_extra=DEBUG_FIELD)
    """Sampling temperature; 0: greedy."""
    sample_top_k: int = Field(40, ge=0, le=1_000_000, json_schema_extra=DEBUG_FIELD)
    """Sample from the k most likely tokens; 0: from all."""
    snapshot_every: int = Field(0, ge=0, le=10_000_000)
    """Keep a snapshot of the weights every N steps; 0: only the final weights."""
    snapshot_steps: Literal["linear", "log"] = "linear"
    """`log`: below `snapshot_every` (0: to the end) also keep the initial weights and those after
    1, 2, 4, 8, ... steps.
    """
    max_rollbacks: int = Field(0, ge=0, le=1_000)
    """Maximum number of rollbacks: after a diverged loss, go back to an earlier checkpoint and skip
    batches (recorded as a deviation); 0: stop instead.
    """
    skip_batches: int = runtime_field(2, ge=2, le=100_000, unless="max_rollbacks")
    """Batches to skip after a rollback, ending with the one whose loss diverged."""
    reference_2018: bool = runtime_field(False, mark=CODE_OF_2018)
    """Match the 2018 code: `optimizer: reference`, `embedding_dropout: matrix`."""
    init_from: str = runtime_field("")
    """Start from the weights in this folder (from `gpt1 import`, `gpt1 export hf`, or the `output/`
    of a packed training). Empty: random weights.
    """
    checkpoint_every: int = runtime_field(1_000, ge=0, le=10_000_000)
    """Save a checkpoint every N steps; 0: only at the end."""
    checkpoint_minutes: float = runtime_field(0.0, ge=0, le=100_000)
    """Also save a checkpoint every N minutes; 0: by steps only."""
    keep_checkpoints: int = runtime_field(2, ge=1, le=1_000)
    """Keep the N newest checkpoints."""
    keep_every: int = runtime_field(0, ge=0, le=10_000_000, mark=DEBUG_FIELD)
    """Also keep every checkpoint at a multiple of N steps; 0: none."""
    loss_spike_threshold: float = runtime_field(0.0, ge=0, unless="max_rollbacks")
    """A loss this many nats above the recent mean has diverged; 0: only NaN and infinity have."""
    preflight: bool = runtime_field(True, mark=DEBUG_FIELD)
    """Check memory and measure all-reduce bandwidth before training."""
    activation_checkpointing: bool = runtime_field(False)
    """Recompute activations in the backward pass: less memory, identical results."""

    @model_validator(mode="before")
    @classmethod
    def _as_in_2018(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("reference_2018"):
            return {"optimizer": "reference", "embedding_dropout": "matrix", **values}
        return values

    @field_validator("exclude_books")
    @classmethod
    def _in_one_order(cls, books: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(books)))  # the fingerprint must not depend on it

    @field_validator("deepspeed")
    @classmethod
    def _overrides(cls, given: dict[str, Any]) -> dict[str, Any]:
        for key in given.keys() - set(OVERRIDES):
            if setting := FOLLOWS_FROM.get(key):
                raise ValueError(f"found {key}, which follows from {setting}; set that instead")
            raise ValueError(f"found {key!r}, expected keys among {', '.join(OVERRIDES)}")
        zero = given.get("zero_optimization", {})
        if not isinstance(zero, dict) or "stage" in zero:
            raise ValueError(
                f"found zero_optimization {zero!r}, expected an object without stage; set zero"
            )
        return given

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        if self.model != "lstm" and self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; choose a multiple of"
                f" {self.heads}"
            )
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size"
                f" {self.batch_size}; choose a divisor of {self.batch_size}"
            )
        if self.warmup >= self.max_steps:
            raise ValueError(
                f"warmup_steps {self.warmup} must be less than max_steps {self.max_steps}; lower"
                " warmup_steps or raise max_steps"
            )
        return self

    @property
    def warmup(self) -> int:
        """The warmup in steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_ratio * self.max_steps)

    def scaled(self) -> PretrainConfig:
        """With `lr_scaling` applied to steps, warmup and rate.

        `sqrt`, a deviation from the paper: the number of tokens stays that of a batch of 64, and
        the rate grows with the root of the batch (Malladi et al. 2022, for Adam).
        """
        if self.lr_scaling == "none" or self.batch_size == PAPER_BATCH:
            return self
        factor = self.batch_size / PAPER_BATCH
        steps = max(1, round(self.max_steps / factor))
        values = {
            "max_steps": steps, "warmup_steps": min(round(self.warmup / factor), steps - 1),
            "lr": self.lr * math.sqrt(factor), "lr_scaling": "none",
        }  # fmt: skip
        return self.model_copy(update=values)

    def shape(self, vocabulary: int) -> ModelConfig:
        """The model for a vocabulary of this many tokens; imports the class of a variant."""
        import_variant(self.model)
        same = {
            name: getattr(self, name)
            for name in ("width", "context", "dropout", "embedding_dropout", "init_std")
        }
        if self.model == "lstm":
            return ModelConfig(
                vocabulary, kind="lstm", units=self.units, layers=1, heads=1, **same
            )
        same |= {"kind": self.model, "layers": self.layers, "heads": self.heads}
        return ModelConfig(vocabulary, **same)

    def accumulation(self, ranks: int) -> int:
        """Micro-batches that each of the `ranks` computes in a step: the global batch is fixed,
        and a micro-batch is never split. Raises UserError for a number that does not divide them.
        """
        micro_batches = self.batch_size // self.micro_batch_size
        if micro_batches % ranks:
            fits = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
            raise UserError(
                f"workers: {ranks} ranks cannot share {micro_batches} micro-batches (batch_size"
                f" {self.batch_size} / micro_batch_size {self.micro_batch_size}); expected one of"
                f" {fits}: change workers or micro_batch_size"
            )
        return micro_batches // ranks

    def zero_stage(self, ranks: int) -> int:
        """The ZeRO stage in force: a rank alone does without DeepSpeed and computes as ZeRO 0
        does, unless `zero_on_one_rank`.
        """
        return self.zero if self.uses_deepspeed(ranks) else 0

    def keeps_snapshot(self, step: int) -> bool:
        """Whether a snapshot is kept after `step` steps; 0: of the initial weights."""
        every = self.snapshot_every
        if self.snapshot_steps == "log" and (step < every or not every):
            return step & (step - 1) == 0  # 0 or a power of two
        return step > 0 and every > 0 and step % every == 0

    def uses_deepspeed(self, ranks: int) -> bool:
        """Whether DeepSpeed trains this number of ranks, and not plain torch."""
        return ranks > 1 or self.zero_on_one_rank


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prompt:
    """The beginning of a sample, as text and as ids of the vocabulary."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RuntimeConfig:
    """Where the data and results of a training are; paths that all its ranks can read."""

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
    """`checkpoints` folders of earlier attempts at the same training, oldest first; only read."""
    initial: str = ""
    """Folder of the weights that training begins with; empty: random ones."""
    initial_sha256: str = ""
    """Of those weights' file."""
    prompts: tuple[Prompt, ...] = ()
    stop_after: int = 0
    """Stop, with a checkpoint, after N steps of this process; 0: at the end."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None


def to_json(config: PretrainConfig, runtime: RuntimeConfig) -> str:
    """Both as one JSON document, for `torchrun -m gpt1.train.pretrain --config FILE`."""
    document = {"config": config.model_dump(mode="json"), "runtime": asdict(runtime)}
    return json.dumps(document, indent=2) + "\n"


def from_json(file: Path) -> tuple[PretrainConfig, RuntimeConfig]:
    """The inverse of `to_json`; paths that are not absolute are taken from the file's folder.

    Raises UserError for a missing file, bad JSON, or unknown, missing or impossible values.
    """
    where = "config"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        config = PretrainConfig(**document["config"])
        where = "runtime"
        runtime = RuntimeConfig(**document["runtime"])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(
            f"{file}: no such file; expected a JSON document with `config` and `runtime`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (where, *first["loc"])))
        raise UserError(f"{file}: {key}: {first['msg']}; correct it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: not a pre-training configuration ({error!r}); run `gpt1 pack` again"
        ) from error
    places: dict[str, Any] = {}
    for name in ("train", "held_out", "earlier"):
        places[name] = tuple(str(file.parent / path) for path in getattr(runtime, name))
    for name in ("books", "vocabulary", "output", "initial"):
        path = getattr(runtime, name)
        places[name] = path and str(file.parent / path)
    return config, replace(runtime, **places)


MAY_CHANGE = {
    "zero", "zero_on_one_rank", "max_rollbacks", "skip_batches", "loss_spike_threshold",
}  # fmt: skip
"""Settings that a resumed training may change: the ZeRO stage changes only the order of sums, and
what was skipped so far is in the history.
"""


def differing(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the settings (`PretrainConfig.semantic` and what else decides the result) in
    which a checkpoint differs from `now`.
    """
    defaults = PretrainConfig.model_validate({}).semantic()
    known = {**defaults, **saved}  # a setting that a later version has: its default
    names = [name for name in {**known, **now} if name not in MAY_CHANGE]
    return [name for name in names if known.get(name) != now.get(name)]
