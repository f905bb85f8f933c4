"""pretrain: language modeling over the shards, by ranks that Ray Train places and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages._checkpoint_files import MODEL, checkpoint_files
from stages.contract import (
    Artifact,
    Context,
    OutsideFile,
    Resources,
    Settings,
    Stage,
    added,
    placement,
)

if TYPE_CHECKING:
    from gpt1.model.config import ModelConfig
    from gpt1.text.vocabulary import Vocabulary
    from gpt1.train.describe import Device, Forecast
    from gpt1.train.pretrain_config import Place, PretrainConfig

INITIAL = "init_from/"


class PretrainSettings(Settings):
    """The defaults are the paper's (SPEC sections 1 and 3)."""

    model: Literal["gpt", "lstm"] = Field(
        "gpt",
        description=(
            "The Transformer, or the LSTM of the paper's ablation (one layer; `layers` and `heads`"
            " are not used)."
        ),
    )
    units: int = added(2048, "Units of the LSTM.", ge=8, le=16_384)
    layers: int = Field(12, ge=1, le=96, description="Number of blocks.")
    width: int = Field(
        768, ge=8, le=16_384,
        description="Size of the hidden states; must be a multiple of `heads`.",
    )
    heads: int = Field(12, ge=1, le=256, description="Attention heads of a block.")
    context: int = Field(
        512, ge=2, le=8_192,
        description="Tokens of one training window, and the most the model can see.",
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout of embedding, attention and each block's two outputs."
    )
    embedding_dropout: Literal["activation", "matrix"] = Field(
        "activation",
        description=(
            "Whether the embedding's dropout acts on the sum or, as in the code of 2018, on the"
            " matrix."
        ),
    )
    init_std: float = Field(
        0.02,
        gt=0,
        lt=1,
        description=(
            "Deviation of the initial weights; 0.02 suits the paper's width, a narrow model needs"
            " more."
        ),
    )
    batch: int = Field(
        64, ge=1, le=65_536, description="Windows of one update, over all ranks together."
    )
    large_batch: Literal["as_set", "scaled"] = added(
        "as_set",
        "For a `batch` other than 64, a deviation from the paper: keep steps, warmup and max_lr, or"
        " scale them (same tokens, rate times the root of batch/64).",
    )
    micro_batch: int = Field(
        8, ge=1, le=65_536,
        description="Windows of one forward; never split, so it must divide `batch`.",
    )
    steps: int = Field(1_000_000, ge=1, le=100_000_000, description="Number of updates.")
    max_lr: float = Field(2.5e-4, gt=0, le=1, description="Learning rate after the warm-up.")
    warmup: int = Field(
        2_000, ge=0, le=10_000_000, description="Updates over which the learning rate rises from 0."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up."
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, description="Decoupled decay of tensors with two or more dimensions."
    )
    optimizer: Literal["adamw", "reference"] = added(
        "adamw", "torch's fused AdamW, or Adam as the code of 2018 has it."
    )
    clip: float = Field(
        1.0, ge=0, le=1_000,
        description="Bound on the gradient's global norm; 0 switches clipping off.",
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1,
        description="Initial weights, order of windows, dropout and samples follow from it.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Number format of the computation; weights are kept in fp32."
    )
    zero: Literal[0, 1, 2, 3] = Field(
        1, description="DeepSpeed's ZeRO stage of several ranks; it changes the last bits."
    )
    loss_chunk: int = added(
        0,
        "Positions whose logits exist at one time, to save memory; 0: all; changes the last bits.",
        ge=0, le=2**24,
    )
    pad_vocabulary: int = added(
        0,
        "Compute the softmax for the next multiple of so many tokens (GPUs: 64), the added ones"
        " masked; 0: no.",
        ge=0,
        le=4_096,
    )
    compile: bool = added(
        False, "Compile model and loss with torch.compile: faster on GPUs; changes the last bits."
    )
    zero_on_one_rank: bool = added(
        False,
        "Use DeepSpeed and its ZeRO stage on one rank too; else a rank alone computes without"
        " DeepSpeed, as ZeRO 0 does.",
    )
    log_every: int = Field(
        10, ge=1, le=1_000_000,
        description="Updates between two rows of metrics; a row's loss is their mean.",
    )
    validate_every: int = Field(
        2_000,
        ge=0,
        le=10_000_000,
        description=(
            "Updates between two validations, each with samples of text; 0: only at the end."
        ),
    )
    validate_windows: int = Field(
        512, ge=0, le=10_000_000,
        description="Held-out windows of a validation, evenly spread; 0: all, as at the end.",
    )
    sample_tokens: int = Field(
        60, ge=0, le=4_096, description="Length of a sample of text; 0: no samples."
    )
    sample_temperature: float = Field(
        0.8, ge=0, le=10, description="Temperature of samples; 0 is greedy."
    )
    sample_top_k: int = Field(
        40, ge=0, le=1_000_000,
        description="A sample's tokens are drawn from the best so many; 0: from all.",
    )
    snapshot_every: int = Field(
        0, ge=0, le=10_000_000, description="Updates between two snapshots of the weights; 0: none."
    )
    rollbacks: int = added(
        0,
        "How often training may go back to the checkpoint before a diverged loss and leave batches"
        " out (a deviation, named in the record); 0: it stops.",
        ge=0,
        le=1_000,
    )
    rollback_batches: int = added(
        2,
        "Batches left out then, up to that of the diverged loss; the one before it made the last"
        " update.",
        ge=2,
        le=100_000,
    )
    rollback_spike: float = added(
        0.0,
        "With `rollbacks`: nats above the losses before that count as diverged; 0: only a loss that"
        " is no number does.",
        ge=0,
    )
    init_from: str = placement(
        "",
        "A checkpoint's folder (`gpt1 import`, `gpt1 pack`) to begin with the weights of, by"
        " content; empty: random ones.",
    )
    checkpoint_every: int = placement(
        1_000, "Updates between two checkpoints; 0: only at the end.", ge=0, le=10_000_000
    )
    checkpoint_minutes: float = placement(
        0.0, "Minutes between two checkpoints besides; 0: only by updates.", ge=0, le=100_000
    )
    keep_checkpoints: int = placement(
        2, "How many of the newest checkpoints are kept.", ge=1, le=1_000
    )
    keep_every: int = placement(
        0, "Checkpoints at multiples of so many updates are kept for good; 0: none.", ge=0,
        le=10_000_000,
    )
    spike: float = placement(
        0.0,
        "Stop when a loss is more than so many nats above those before, naming the books; 0: only"
        " when it is no number.",
        ge=0,
    )
    preflight: bool = placement(
        True,
        "Before training, refuse what cannot fit into the memory and measure the ranks' exchange.",
    )
    resize_every: float = placement(
        60.0,
        "Seconds between two looks for room for more ranks, where `min_workers` lets it go on with"
        " fewer.",
        gt=0,
        le=1e6,
    )
    portable_only: bool = placement(
        False, "Leave DeepSpeed's own form out of checkpoints: half the bytes, any ranks and stage."
    )
    checkpoint_activations: bool = placement(
        False, "Recompute activations in the backward pass: less memory, the same numbers."
    )

    @model_validator(mode="after")
    def _fits(self) -> PretrainSettings:
        if self.model == "gpt" and self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; choose a multiple of"
                f" {self.heads}"
            )
        if self.batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch {self.batch}; choose a"
                f" divisor of {self.batch}"
            )
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup {self.warmup} must be less than steps {self.steps}; lower warmup or raise"
                " steps"
            )
        if self.rollback_spike and not self.rollbacks:
            raise ValueError(
                "rollback_spike does nothing without rollbacks; set rollbacks, or `spike` to stop"
            )
        return self


class Pretrain(Stage):
    """One model.

    Its checkpoints lie in the attempt's `checkpoints/`, where later attempts find them.
    """

    settings_model = PretrainSettings
    requires = ("shard", "vocabulary")
    spreads = True
    gang = True

    @classmethod
    def outside(cls, settings: PretrainSettings) -> list[OutsideFile]:
        """DeepSpeed's settings count by content: they are a file that a person may edit.

        So do weights to begin with.
        """
        file = _deepspeed(settings)
        given = (
            checkpoint_files(settings.init_from, "pretrain: `init_from`", under=INITIAL)
            if settings.init_from
            else []
        )
        return [OutsideFile(f"deepspeed/{file.name}", file), *given]

    @staticmethod
    def forecast(
        settings: PretrainSettings, resources: Resources, vocabulary: int,
        corpus_tokens: int | None = None, device: Device | None = None,
    ) -> Forecast:
        """What the training will need, for a `vocabulary` of so many tokens
        (gpt1.train.describe).
        """
        from gpt1.train.describe import describe
        from gpt1.train.pretrain_config import computes_alone

        ranks = resources.workers or 1
        zero = 0 if computes_alone(ranks, settings.zero_on_one_rank) else settings.zero
        return describe(
            _model(settings, vocabulary), batch=settings.batch, micro_batch=settings.micro_batch,
            steps=_plan(settings)["steps"], ranks=ranks, zero=zero,
            bf16=settings.precision == "bf16", recompute=settings.checkpoint_activations,
            loss_chunk=settings.loss_chunk, corpus_tokens=corpus_tokens, device=device,
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
        from gpt1.train.pretrain_config import Place, to_json

        outside = cls.outside(settings)
        place = Place(
            tuple(train), tuple(held_out), "books.parquet", vocabulary.name, vocabulary.name,
            deepspeed=outside[0].name, init_from=INITIAL if settings.init_from else "",
            **_saving(settings),
        )  # fmt: skip
        return to_json(_config(settings, Vocabulary.load(vocabulary), outside), place)

    def run(self, settings: PretrainSettings, context: Context) -> None:
        from gpt1.text.vocabulary import Vocabulary
        from gpt1.train.pretrain import open_windows
        from stages._ray_train import train_on_ray

        vocabulary = Vocabulary.load(_folder(context.input("vocabulary")))
        config = _config(settings, vocabulary, context.outside)
        place = _place(settings, context)
        workers = context.resources.workers or 1
        _check_ranks(settings, context.resources)
        windows, held_out = open_windows(config, place, vocabulary)
        context.say(
            f"{config.model.parameters():,} parameters, {windows.shards.tokens:,} tokens in"
            f" {windows.per_epoch:,} windows, {len(held_out):,} held out; {workers} ranks, ZeRO"
            f" {settings.zero}, {settings.precision}"
        )
        train_on_ray(config, place, context, workers, settings.resize_every)
        _declare(context)
        _summarise(settings, context, windows.per_epoch, config)


def _check_ranks(settings: PretrainSettings, resources: Resources) -> None:
    """UserError where the most or the least ranks cannot share the micro-batches: with such a
    least it might wait for ever.
    """
    from gpt1.train.ranks import accumulation

    accumulation(settings.batch, settings.micro_batch, resources.workers or 1)
    if resources.min_workers is not None:
        accumulation(settings.batch, settings.micro_batch, resources.min_workers, "min_workers")


def _config(
    settings: PretrainSettings, vocabulary: Vocabulary, outside: Sequence[OutsideFile] = ()
) -> PretrainConfig:
    from gpt1.text.encoder import TextEncoder
    from gpt1.train.checkpoint_record import sha256
    from gpt1.train.pretrain_config import PROMPTS, PretrainConfig, Prompt

    encoder, initial = TextEncoder(vocabulary), _initial(outside)
    given = settings.model_dump()
    same = (
        "batch", "micro_batch", "schedule", "weight_decay", "clip", "seed", "precision",
        "log_every", "validate_every", "validate_windows", "snapshot_every", "sample_tokens",
        "optimizer", "loss_chunk", "pad_vocabulary", "compile", "rollbacks", "rollback_batches",
        "rollback_spike",
    )  # fmt: skip
    return PretrainConfig(
        _model(settings, vocabulary.size), **{name: given[name] for name in same},
        **_plan(settings),
        initial_sha256=(initial.digest or sha256(initial.path)) if initial else "",
        temperature=settings.sample_temperature, top_k=settings.sample_top_k,
        prompts=tuple(Prompt(text, tuple(encoder.encode(text))) for text in PROMPTS),
    )


def _initial(outside: Sequence[OutsideFile]) -> OutsideFile | None:
    """The weights to begin with, as the plan found them: where it was made a relative
    `init_from` meant something.
    """
    return next((file for file in outside if file.name == INITIAL + MODEL), None)


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
    """steps, warmup and max_lr of this batch size."""
    from gpt1.train.schedule import PAPER_BATCH, scale_to_batch

    if settings.large_batch == "as_set" or settings.batch == PAPER_BATCH:
        return {"steps": settings.steps, "warmup": settings.warmup, "max_lr": settings.max_lr}
    return scale_to_batch(
        settings.batch, steps=settings.steps, warmup=settings.warmup, max_lr=settings.max_lr
    )


def _deviation(
    settings: PretrainSettings, config: PretrainConfig, events: Sequence[dict[str, Any]] = ()
) -> dict[str, str]:
    """What the record says where the batch is not the paper's, weights were given, or batches
    were left out (`events` of skipped.jsonl).
    """
    from gpt1.train.rollback import told
    from gpt1.train.schedule import PAPER_BATCH

    found = [told(event) for event in events]
    if config.initial_sha256:
        found.insert(0, f"begins with given weights ({MODEL} {config.initial_sha256[:12]})")
    if settings.batch != PAPER_BATCH:
        plan = f"{config.steps:,} steps, warm-up {config.warmup:,}, max_lr {config.max_lr:.3g}"
        how = settings.large_batch.replace("_", " ")
        found.insert(
            0, f"batch {settings.batch} instead of the paper's {PAPER_BATCH}: {plan} ({how})"
        )
    return {"deviation": "; ".join(found)} if found else {}


def _deepspeed(settings: PretrainSettings) -> Path:
    from gpt1.train.pretrain_config import DEEPSPEED_FOLDER

    return DEEPSPEED_FOLDER / f"zero{settings.zero}.json"


def _saving(settings: PretrainSettings) -> dict[str, Any]:
    """The settings of placement that say when to save and stop, and what memory is spent; Place
    calls them the same.
    """
    names = (
        "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_every", "portable_only",
        "spike", "checkpoint_activations", "preflight", "zero_on_one_rank",
    )  # fmt: skip
    return {name: getattr(settings, name) for name in names}


def _place(settings: PretrainSettings, context: Context) -> Place:
    from gpt1.train.pretrain_config import Place

    shards = context.input("shard")
    initial = _initial(context.outside)
    return Place(
        train=tuple(str(file.path) for file in shards.under("train/")),
        held_out=tuple(str(file.path) for file in shards.under("held_out/")),
        books=str(shards.path("books.parquet")),
        vocabulary=str(_folder(context.input("vocabulary"))),
        output=str(context.attempt),
        earlier=(
            () if context.travel else tuple(str(path) for path in context.earlier("checkpoints"))
        ),
        deepspeed=str(context.outside[0].path),
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
    settings: PretrainSettings, context: Context, windows: int, config: PretrainConfig
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
    samples = config.steps * config.batch
    figures: dict[str, Any] = {
        "validation_perplexity": perplexity, "validation_loss": rows[-1]["validation_loss"],
        "validation_bits_per_byte": rows[-1]["validation_bits_per_byte"],
        "train_loss": rows[-1]["loss"], "unigram_perplexity": unigram, "bigram_perplexity": bigram,
        "of_unigram": perplexity / unigram if unigram else None,
        "parameters": config.model.parameters(), "steps": config.steps,
        "tokens": samples * settings.context, "epochs": samples / windows,
        **_deviation(settings, config, events),
    }
    if events:
        figures["skipped_batches"] = sum(len(event["batches"]) for event in events)
    context.summary(figures)
    context.say(
        f"held-out perplexity {perplexity:.2f} after {figures['tokens']:,} tokens"
        f" ({figures['epochs']:.2f} epochs)"
    )
    if unigram and bigram:
        context.say(
            f"of the same shards: unigram {unigram:.2f}, bigram {bigram:.2f}; the model stands at"
            f" {perplexity / unigram:.1%} of the unigram and {perplexity / bigram:.1%} of the"
            " bigram perplexity"
        )


STAGE = Pretrain()
