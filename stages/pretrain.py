"""pretrain: train the language model on the shards, on ranks that Ray Train places and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from gpt1.wording import counted
from stages._checkpoint_files import MODEL, checkpoint_files
from stages.contract import (
    CODE_OF_2018,
    DEBUG_FIELD,
    Artifact,
    Context,
    ExternalFile,
    Resources,
    Settings,
    Stage,
    paper,
    runtime_field,
    set_together,
)

if TYPE_CHECKING:
    from gpt1.model.config import ModelConfig
    from gpt1.text.vocabulary import Vocabulary
    from gpt1.train.cost_model import Device, Forecast
    from gpt1.train.pretrain_config import PretrainConfig, RuntimeConfig

INITIAL = "init_from/"


class PretrainSettings(Settings):
    """The defaults are the paper's (section 4.1; the schedule of figure 2)."""

    model: Literal["gpt", "lstm"] = Field(
        "gpt", json_schema_extra=paper("table 5"),
        description=(
            "The Transformer, or the one-layer LSTM of the paper's ablation, which ignores `layers`"
            " and `heads`."
        ),
    )
    units: int = Field(
        2048, ge=8, le=16_384, json_schema_extra=paper("table 5"),
        description="LSTM units.",
    )
    layers: int = Field(
        12, ge=1, le=96, json_schema_extra=paper("4.1"),
        description="Number of blocks.",
    )
    width: int = Field(
        768, ge=8, le=16_384, json_schema_extra=paper("4.1"),
        description="Hidden size; a multiple of `heads`.",
    )
    heads: int = Field(
        12, ge=1, le=256, json_schema_extra=paper("4.1"),
        description="Attention heads per block.",
    )
    context: int = Field(
        512, ge=2, le=8_192, json_schema_extra=paper("4.1"),
        description="Tokens per training sequence, and the model's context.",
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, json_schema_extra=paper("4.1"),
        description="Dropout on embeddings, attention weights and sublayer outputs.",
    )
    embedding_dropout: Literal["activation", "matrix"] = Field(
        "activation", json_schema_extra=CODE_OF_2018,
        description=(
            "Apply dropout to the summed embeddings, or to the embedding matrix as in the 2018"
            " code."
        ),
    )
    init_std: float = Field(
        0.02, gt=0, lt=1, json_schema_extra=paper("4.1"),
        description="Standard deviation of weight initialization; narrow models need more.",
    )
    batch_size: int = Field(
        64, ge=1, le=65_536, json_schema_extra=paper("4.1"),
        description="Sequences per step, over all ranks.",
    )
    lr_scaling: Literal["none", "sqrt"] = Field(
        "none",
        description=(
            "When `batch_size` is not 64: `none` keeps steps, warmup and learning rate; `sqrt`"
            " keeps the tokens and multiplies the rate by sqrt(batch_size/64)."
        ),
    )
    micro_batch_size: int = Field(
        8, ge=1, le=65_536, description="Sequences per forward pass; must divide `batch_size`."
    )
    max_steps: int = Field(
        1_000_000, ge=1, le=100_000_000, json_schema_extra=paper("figure 2"),
        description="Number of optimizer steps.",
    )
    lr: float = Field(
        2.5e-4, gt=0, le=1, json_schema_extra=paper("4.1"),
        description="Peak learning rate, after the warmup.",
    )
    warmup_steps: int | None = Field(
        None, ge=0, le=10_000_000, json_schema_extra=paper("4.1"),
        description="Linear warmup steps; default: set by `warmup_ratio`.",
    )
    warmup_ratio: float = Field(
        0.002, ge=0, lt=1, json_schema_extra=paper("4.1"),
        description="Warmup as a fraction of `max_steps`.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", json_schema_extra=paper("4.1"),
        description="Learning-rate schedule after the warmup.",
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, json_schema_extra=paper("4.1"),
        description="Decoupled weight decay for tensors with two or more dimensions.",
    )
    optimizer: Literal["adamw", "reference"] = Field(
        "adamw", json_schema_extra=CODE_OF_2018,
        description="torch's fused AdamW, or the Adam of the 2018 code.",
    )
    grad_clip: float = Field(
        1.0, ge=0, le=1_000, json_schema_extra=CODE_OF_2018,
        description="Maximum gradient norm (0 disables clipping).",
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed for weights, data order, dropout and samples."
    )
    exclude_books: tuple[str, ...] = Field(
        (),
        description=(
            "IDs of training books (in books.parquet) that do not count in the loss. The batches"
            " stay the same, so runs with and without a book form an exact pair."
        ),
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Compute precision; weights stay in fp32."
    )
    zero: Literal[0, 1, 2, 3] = Field(
        1, description="DeepSpeed's ZeRO stage on several ranks; changes the last bits of results."
    )
    loss_chunk_size: int = Field(
        0,
        ge=0,
        le=2**24,
        description=(
            "Compute logits for this many positions at a time to save memory; 0: all at once."
            " Changes the last bits of results."
        ),
    )
    pad_vocabulary: int = Field(
        0, ge=0, le=4_096,
        description=(
            "Pad the softmax with masked tokens to a multiple of N (64 for GPUs); 0: no padding."
        ),
    )
    compile: bool = Field(
        False, description="Use torch.compile: faster on GPUs; changes the last bits of results."
    )
    zero_on_one_rank: bool = Field(
        False, json_schema_extra=DEBUG_FIELD,
        description="Use DeepSpeed on a single rank too, instead of plain torch.",
    )
    log_every: int = Field(
        10, ge=1, le=1_000_000, json_schema_extra=DEBUG_FIELD,
        description="Log metrics every N steps; the loss is averaged over them.",
    )
    validate_every: int = Field(
        2_000, ge=0, le=10_000_000,
        description="Validate and sample text every N steps; 0: only at the end.",
    )
    validate_sequences: int = Field(
        512, ge=0, le=10_000_000,
        description=(
            "Held-out sequences per validation, evenly spaced; 0: all. The last validation uses"
            " all."
        ),
    )
    sample_tokens: int = Field(
        60, ge=0, le=4_096, description="Tokens per text sample; 0: no samples."
    )
    sample_temperature: float = Field(
        0.8, ge=0, le=10, json_schema_extra=DEBUG_FIELD,
        description="Sampling temperature; 0: greedy.",
    )
    sample_top_k: int = Field(
        40, ge=0, le=1_000_000, json_schema_extra=DEBUG_FIELD,
        description="Sample from the k most likely tokens; 0: from all.",
    )
    snapshot_every: int = Field(
        0, ge=0, le=10_000_000,
        description="Keep a snapshot of the weights every N steps; 0: only the final weights."
    )
    max_rollbacks: int = Field(
        0,
        ge=0,
        le=1_000,
        description=(
            "Maximum number of rollbacks: after a diverged loss, go back to an earlier checkpoint"
            " and skip batches (recorded as a deviation); 0: stop instead."
        ),
    )
    skip_batches: int = Field(
        2, ge=2, le=100_000,
        description="Batches to skip after a rollback, ending with the one whose loss diverged.",
    )
    rollback_spike_threshold: float = Field(
        0.0,
        ge=0,
        description=(
            "With `max_rollbacks`: roll back when a loss exceeds the recent mean by this many nats;"
            " 0: only on NaN or infinity."
        ),
    )
    reference_2018: bool = runtime_field(
        False, "Match the 2018 code: `optimizer: reference`, `embedding_dropout: matrix`.",
        mark=CODE_OF_2018,
    )
    init_from: str = runtime_field(
        "",
        "Start from the weights in this folder (from `gpt1 import`, `gpt1 export hf`, or the"
        " `output/` of a packed training), fingerprinted by content. Empty: random weights.",
    )
    checkpoint_every: int = runtime_field(
        1_000, "Save a checkpoint every N steps; 0: only at the end.", ge=0, le=10_000_000
    )
    checkpoint_minutes: float = runtime_field(
        0.0, "Also save a checkpoint every N minutes; 0: by steps only.", ge=0, le=100_000
    )
    keep_checkpoints: int = runtime_field(2, "Keep the N newest checkpoints.", ge=1, le=1_000)
    keep_every: int = runtime_field(
        0, "Also keep every checkpoint at a multiple of N steps; 0: none.", ge=0, le=10_000_000,
        mark=DEBUG_FIELD,
    )
    loss_spike_threshold: float = runtime_field(
        0.0,
        "Stop and name the batch's books when a loss exceeds the recent mean by this many nats; 0:"
        " only on NaN or infinity.",
        ge=0,
    )
    preflight: bool = runtime_field(
        True, "Check memory and measure all-reduce bandwidth before training.",
        mark=DEBUG_FIELD,
    )
    resize_every: float = runtime_field(
        60.0, "With `min_workers`: check every N seconds whether more ranks fit.", gt=0, le=1e6,
        mark=DEBUG_FIELD,
    )
    activation_checkpointing: bool = runtime_field(
        False, "Recompute activations in the backward pass: less memory, identical results."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_in_2018(cls, values: Any) -> Any:
        return set_together(
            values, "reference_2018", optimizer="reference", embedding_dropout="matrix"
        )

    @field_validator("exclude_books", mode="after")
    @classmethod
    def _in_one_order(cls, books: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(books)))  # the fingerprint must not depend on it

    @model_validator(mode="after")
    def _fits(self) -> PretrainSettings:
        if self.model == "gpt" and self.width % self.heads:
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
        if self.rollback_spike_threshold and not self.max_rollbacks:
            raise ValueError(
                "rollback_spike_threshold does nothing without max_rollbacks; set max_rollbacks, or"
                " loss_spike_threshold to stop"
            )
        return self

    @property
    def warmup(self) -> int:
        """The warmup in steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_ratio * self.max_steps)


class Pretrain(Stage):
    """One model.

    Its checkpoints lie in the attempt's `checkpoints/`, where later attempts find them.
    """

    settings_model = PretrainSettings
    requires = ("shard", "vocabulary")
    is_coordinator = True
    gang_scheduled = True

    @classmethod
    def external_files(cls, settings: PretrainSettings) -> list[ExternalFile]:
        """DeepSpeed's settings count by content: they are a file that a person may edit.

        So do weights to begin with.
        """
        file = _deepspeed(settings)
        given = (
            checkpoint_files(settings.init_from, "pretrain: `init_from`", under=INITIAL)
            if settings.init_from
            else []
        )
        return [ExternalFile(f"deepspeed/{file.name}", file), *given]

    @staticmethod
    def forecast(
        settings: PretrainSettings, resources: Resources, vocabulary: int,
        corpus_tokens: int | None = None, device: Device | None = None,
    ) -> Forecast:
        """What the training will need, for a `vocabulary` of so many tokens
        (gpt1.train.cost_model).
        """
        from gpt1.train.cost_model import describe
        from gpt1.train.pretrain_config import computes_alone

        ranks = resources.workers or 1
        zero = 0 if computes_alone(ranks, settings.zero_on_one_rank) else settings.zero
        return describe(
            _model(settings, vocabulary), batch=settings.batch_size,
            micro_batch=settings.micro_batch_size, steps=_plan(settings)["max_steps"], ranks=ranks,
            zero=zero, bf16=settings.precision == "bf16",
            recompute=settings.activation_checkpointing, loss_chunk=settings.loss_chunk_size,
            cpu=device is None and not resources.gpus, corpus_tokens=corpus_tokens, device=device,
        )  # fmt: skip

    @classmethod
    def packed(
        cls, settings: PretrainSettings, vocabulary: Path, train: Sequence[str],
        held_out: Sequence[str],
    ) -> str:
        """run.json for torchrun (docs/explanation/training.md).

        `train` and `held_out` are the shards, with books.parquet, the outside files by their names,
        and the folder `vocabulary`, in which the output will lie too, beside run.json.
        """
        from gpt1.text.vocabulary import Vocabulary
        from gpt1.train.pretrain_config import RuntimeConfig, to_json

        external_files = cls.external_files(settings)
        place = RuntimeConfig(
            tuple(train), tuple(held_out), "books.parquet", vocabulary.name, vocabulary.name,
            deepspeed=external_files[0].name, init_from=INITIAL if settings.init_from else "",
            **_saving(settings),
        )  # fmt: skip
        return to_json(_config(settings, Vocabulary.load(vocabulary), external_files), place)

    def run(self, settings: PretrainSettings, context: Context) -> None:
        from gpt1.text.vocabulary import Vocabulary
        from gpt1.train.pretrain import open_data
        from gpt1.train.pretrain_config import computes_alone
        from stages._ray_train import train_on_ray

        vocabulary = Vocabulary.load(_folder(context.input("vocabulary")))
        config = _config(settings, vocabulary, context.external_files)
        place = _place(settings, context)
        workers = context.resources.workers or 1
        _check_ranks(settings, context.resources)
        data = open_data(config, place)
        if config.warmup_steps > 0.1 * config.max_steps:
            context.info(
                f"warning: warmup takes {config.warmup_steps:,} of {config.max_steps:,} steps;"
                " expected at most a tenth, as more usually trains badly: lower `warmup_steps`"
            )
        alone = computes_alone(workers, settings.zero_on_one_rank)
        context.info(
            f"{config.model.parameters():,} parameters, {data.train.shards.tokens:,} tokens in"
            f" {data.train.per_epoch:,} sequences, {len(data.held_out):,} held out;"
            f" {counted(workers, 'rank')}, {'plain torch' if alone else f'ZeRO {settings.zero}'},"
            f" {settings.precision}"
        )
        train_on_ray(config, place, context, workers, settings.resize_every)
        _declare(context)
        _summarise(settings, context, data.train.per_epoch, config)


def _check_ranks(settings: PretrainSettings, resources: Resources) -> None:
    """UserError where the most or the least ranks cannot share the micro-batches: with such a
    least it might wait for ever.
    """
    from gpt1.train.dist import accumulation

    accumulation(settings.batch_size, settings.micro_batch_size, resources.workers or 1)
    if resources.min_workers is not None:
        accumulation(
            settings.batch_size, settings.micro_batch_size, resources.min_workers, "min_workers"
        )


def _config(
    settings: PretrainSettings, vocabulary: Vocabulary, external_files: Sequence[ExternalFile] = ()
) -> PretrainConfig:
    from gpt1.text.encoder import TextEncoder
    from gpt1.train.checkpoint import sha256
    from gpt1.train.pretrain_config import PROMPTS, PretrainConfig, Prompt

    encoder, initial = TextEncoder(vocabulary), _initial(external_files)
    values = {
        **_same_fields(settings, PretrainConfig), **_plan(settings),
        "model": _model(settings, vocabulary.size),
        "initial_sha256": (initial.digest or sha256(initial.path)) if initial else "",
        "prompts": tuple(Prompt(text, tuple(encoder.encode(text))) for text in PROMPTS),
    }  # fmt: skip
    return PretrainConfig(**values)


def _same_fields(settings: PretrainSettings, config: type) -> dict[str, Any]:
    """The settings that are fields of the library's configuration."""
    names = {field.name for field in fields(config)} & type(settings).model_fields.keys()
    return {name: getattr(settings, name) for name in names}


def _initial(external_files: Sequence[ExternalFile]) -> ExternalFile | None:
    """The weights to begin with, as the plan found them: where it was made a relative
    `init_from` meant something.
    """
    return next((file for file in external_files if file.name == INITIAL + MODEL), None)


def _model(settings: PretrainSettings, vocabulary: int) -> ModelConfig:
    from gpt1.model.config import ModelConfig

    given = settings.model_dump()
    shape = {
        name: given[name]
        for name in ("width", "context", "dropout", "embedding_dropout", "init_std")
    }
    if settings.model == "lstm":
        shape |= {"kind": "lstm", "units": settings.units, "layers": 1, "heads": 1}
    else:
        shape |= {"layers": settings.layers, "heads": settings.heads}
    return ModelConfig(vocabulary=vocabulary, **shape)


def _plan(settings: PretrainSettings) -> dict[str, Any]:
    """max_steps, warmup_steps and lr of this batch size."""
    from gpt1.train.schedule import PAPER_BATCH, scale_to_batch

    if settings.lr_scaling == "none" or settings.batch_size == PAPER_BATCH:
        return {
            "max_steps": settings.max_steps, "warmup_steps": settings.warmup, "lr": settings.lr,
        }
    return scale_to_batch(
        settings.batch_size, steps=settings.max_steps, warmup=settings.warmup, max_lr=settings.lr
    )


def _deviation(
    settings: PretrainSettings, config: PretrainConfig, events: Sequence[dict[str, Any]] = ()
) -> dict[str, str]:
    """What the record says where the batch is not the paper's, weights were given, or books or
    batches were left out (`events` of skipped.jsonl).
    """
    from gpt1.train.divergence import shown
    from gpt1.train.rollback import describe_rollback
    from gpt1.train.schedule import PAPER_BATCH

    found = [describe_rollback(event) for event in events]
    if config.initial_sha256:
        found.insert(0, f"starts from given weights ({MODEL} {config.initial_sha256[:12]})")
    if books := config.exclude_books:
        found.insert(0, f"{len(books)} books excluded from the loss: {shown(books)}")
    if settings.batch_size != PAPER_BATCH:
        plan = f"{config.max_steps:,} steps, warmup {config.warmup_steps:,}, lr {config.lr:.3g}"
        found.insert(
            0,
            f"batch_size {settings.batch_size} instead of the paper's {PAPER_BATCH}: {plan}"
            f" (lr_scaling {settings.lr_scaling})",
        )
    return {"deviation": "; ".join(found)} if found else {}


def _deepspeed(settings: PretrainSettings) -> Path:
    from gpt1.train.pretrain_config import DEEPSPEED_FOLDER

    return DEEPSPEED_FOLDER / f"zero{settings.zero}.json"


def _saving(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that say when to save and stop, and what memory is spent."""
    from gpt1.train.pretrain_config import RuntimeConfig

    same = _same_fields(settings, RuntimeConfig)
    del same["init_from"]  # a relative one meant something where the plan was made
    return same


def _place(settings: PretrainSettings, context: Context) -> RuntimeConfig:
    from gpt1.train.pretrain_config import RuntimeConfig

    shards = context.input("shard")
    initial = _initial(context.external_files)
    return RuntimeConfig(
        train=tuple(str(file.path) for file in shards.under("train/")),
        held_out=tuple(str(file.path) for file in shards.under("held_out/")),
        books=str(shards.path("books.parquet")),
        vocabulary=str(_folder(context.input("vocabulary"))),
        output=str(context.attempt),
        earlier=tuple(str(path) for path in context.previous_attempts("checkpoints")),
        deepspeed=str(context.external_files[0].path),
        **_saving(settings),
        init_from=str(initial.path.parent) if initial else "",
        run=context.attempt.parent.name,  # the fingerprint, by which the tracker knows the run
        device="cuda" if context.resources.gpus else "cpu",
        threads=max(1, int(context.resources.cpus)),
    )


def _folder(vocabulary: Artifact) -> Path:
    """The folder that holds both files of the vocabulary."""
    return vocabulary.under("encoder_bpe_")[0].path.parent


def _declare(context: Context) -> None:
    names = [
        "model.safetensors", "config.json", "metrics.jsonl", "samples.jsonl", "samples.md",
        "held_out_books.jsonl",
    ]
    names += sorted(
        f"snapshots/{path.name}" for path in (context.attempt / "snapshots").glob("*.safetensors")
    )
    names += [path.name for path in context.attempt.glob("skipped.jsonl")]
    for name in names:
        context.output(name)
    context.output("throughput.jsonl", volatile=True)


def _summarise(
    settings: PretrainSettings, context: Context, per_epoch: int, config: PretrainConfig
) -> None:
    import json

    def lines(file: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    rows = lines(context.attempt / "metrics.jsonl")
    events = [event for file in context.attempt.glob("skipped.jsonl") for event in lines(file)]
    baseline = context.input("shard").summary
    perplexity, unigram, bigram = (
        rows[-1]["validation_perplexity"], baseline["unigram_perplexity"],
        baseline["bigram_perplexity"],
    )
    samples = config.max_steps * config.batch_size
    figures: dict[str, Any] = {
        "validation_perplexity": perplexity, "validation_loss": rows[-1]["validation_loss"],
        "validation_bits_per_byte": rows[-1]["validation_bits_per_byte"],
        "train_loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "unigram_perplexity": unigram, "bigram_perplexity": bigram,
        "of_unigram": perplexity / unigram if unigram else None,
        "parameters": config.model.parameters(), "steps": config.max_steps,
        "tokens": samples * settings.context, "epochs": samples / per_epoch,
        **_deviation(settings, config, events),
    }
    if events:
        figures["skipped_batches"] = sum(len(event["batches"]) for event in events)
    context.summary(figures)
    context.info(
        f"held-out perplexity {perplexity:.2f} after {figures['tokens']:,} tokens"
        f" ({figures['epochs']:.2f} epochs)"
    )
    if unigram and bigram:
        context.info(
            f"baselines on the same shards: unigram {unigram:.2f}, bigram {bigram:.2f}; perplexity"
            f" is {perplexity / unigram:.3g}x the unigram's and {perplexity / bigram:.3g}x the"
            " bigram's"
        )


STAGE = Pretrain()
