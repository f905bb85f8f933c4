"""pretrain: train the language model on the shards, on ranks that Ray Train places and restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.model.config import variant_module
from gpt1.train.config import PAPER_BATCH, PROMPTS, PretrainConfig, Prompt, RuntimeConfig, to_json
from stages._checkpoint_files import MODEL, checkpoint_files, variant_files
from stages.contract import (
    Context,
    ExternalFile,
    Forecastable,
    PackableTraining,
    Resources,
    Stage,
)

if TYPE_CHECKING:
    from gpt1.tokenizer.vocabulary import Vocabulary
    from gpt1.train.cost_model import Device, Forecast
    from gpt1.train.trainer import PretrainData

INITIAL = "init_from/"


class Pretrain(Stage, Forecastable, PackableTraining):
    """One model.

    Its checkpoints are in the attempt's `checkpoints/`, where later attempts find them.
    """

    version = 2  # a validation before the first step
    settings_model = PretrainConfig
    requires = ("shard", "vocabulary")
    is_coordinator = True
    gang_scheduled = True

    @classmethod
    def external_files(cls, settings: PretrainConfig) -> list[ExternalFile]:
        """The weights to begin with, and the class of a variant, count by content."""
        own = variant_files(settings.model)
        if not settings.init_from:
            return own
        return [*own, *checkpoint_files(settings.init_from, "pretrain: `init_from`", INITIAL)]

    @classmethod
    def check(cls, settings: PretrainConfig, upstream: Mapping[str, Sequence[Any]]) -> None:
        """Refuse a variant that cannot be built, and other than one text to train on."""
        if variant_module(settings.model):
            settings.shape(vocabulary=1).parameters()
        if len(shards := upstream.get("shard", ())) > 1:
            raise UserError(
                f"{len(shards)} shard jobs match; expected one: narrow that stage's `matrix:`, or"
                " add a stage with `uses: shard` for each"
            )

    @classmethod
    def share_left(cls, settings: PretrainConfig, files: Sequence[str]) -> float:
        """All after the newest checkpoint of any attempt."""
        from gpt1.train.checkpoint import newest_step

        return 1 - newest_step(files) / max(1, settings.scaled().max_steps)

    @classmethod
    def check_resources(cls, settings: PretrainConfig, resources: Resources) -> None:
        """A micro-batch is never split, so every number of ranks that Ray may choose must divide
        the micro-batches.
        """
        most = resources.workers or 1
        micro_batches = settings.accumulation(most) * most
        ranks = range(resources.min_workers or most, most + 1)
        if wrong := [number for number in ranks if micro_batches % number]:
            raise UserError(
                f"min_workers: Ray may train on any number of ranks from {ranks[0]} to {most}, but"
                f" {wrong[-1]} cannot share {micro_batches} micro-batches (batch_size"
                f" {settings.batch_size} / micro_batch_size {settings.micro_batch_size}); expected"
                f" min_workers from {wrong[-1] + 1} to {most}, or a multiple of {lcm(*ranks)}"
                " micro-batches"
            )

    @staticmethod
    def forecast(
        settings: PretrainConfig, resources: Resources, vocabulary: int,
        corpus_tokens: int | None = None, device: Device | None = None,
    ) -> Forecast:
        """What the training will need, for a `vocabulary` of this many tokens
        (gpt1.train.cost_model).
        """
        from gpt1.train.cost_model import describe

        return describe(
            settings, vocabulary, ranks=resources.workers or 1,
            cpu=device is None and not resources.gpus, corpus_tokens=corpus_tokens, device=device,
        )  # fmt: skip

    @classmethod
    def run_config(
        cls, settings: PretrainConfig, vocabulary: Path, train: Sequence[str],
        held_out: Sequence[str],
    ) -> str:
        """run.json for torchrun (docs/explanation/training.md).

        `train` and `held_out` are the shards, with books.parquet, the external files by their
        names, and the folder `vocabulary`, in which the output will be too, next to run.json.
        """
        from gpt1.tokenizer.vocabulary import Vocabulary

        start = _start(cls.external_files(settings), Vocabulary.load(vocabulary))
        if start["initial"]:
            start["initial"] = INITIAL
        runtime = RuntimeConfig(
            tuple(train), tuple(held_out), "books.parquet", vocabulary.name, vocabulary.name,
            **start,
        )
        return to_json(settings, runtime)

    def run(self, settings: PretrainConfig, context: Context) -> None:
        from gpt1.tokenizer.vocabulary import Vocabulary
        from gpt1.train.trainer import open_data
        from stages._ray_train import on_this_host, train_on_ray

        files = _files(context)
        vocabulary = Vocabulary.read(*map(context.fetch, files["vocabulary"]))
        anywhere = _runtime(vocabulary, context)
        runtime = on_this_host(anywhere, files, context.store)
        workers = context.resources.workers or 1
        config, data = settings.scaled(), open_data(settings, runtime)
        if config.warmup > 0.1 * config.max_steps:
            context.info(
                f"warning: warmup takes {config.warmup:,} of {config.max_steps:,} steps; expected"
                " at most a tenth, as more usually trains badly: lower `warmup_steps`"
            )
        engine = f"ZeRO {config.zero}" if config.uses_deepspeed(workers) else "plain torch"
        context.info(
            f"{config.shape(vocabulary.size).parameters():,} parameters,"
            f" {data.train.shards.tokens:,} tokens in {data.train.per_epoch:,} sequences,"
            f" {data.validation.per_epoch:,} held out; {counted(workers, 'rank')}, {engine},"
            f" {config.precision}"
        )
        train_on_ray(settings, anywhere, files, context)
        _declare(context)
        _summarize(settings, runtime, context, data)


def _start(external_files: Sequence[ExternalFile], vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of RuntimeConfig that say what training begins with: the prompts, and the given
    weights as the plan found them (where it was made a relative `init_from` meant something).
    """
    from gpt1.tokenizer.tokenizer import Tokenizer
    from gpt1.train.checkpoint import file_sha256

    encode = Tokenizer(vocabulary).encode
    found: dict[str, Any] = {"initial": "", "initial_sha256": ""}
    for file in external_files:
        if file.name == INITIAL + MODEL:
            found["initial"] = str(file.path.parent)
            found["initial_sha256"] = file.digest or file_sha256(file.path)
    return {**found, "prompts": tuple(Prompt(text, tuple(encode(text))) for text in PROMPTS)}


def _deviation(
    settings: PretrainConfig, runtime: RuntimeConfig, rollbacks: Sequence[dict[str, Any]],
    shard: Mapping[str, Any],
) -> dict[str, str]:
    """What the record says where the batch is not the paper's, weights were given, or books or
    batches were left out (`rollbacks` of skipped.jsonl), or the `shard` settings changed the text.
    """
    from gpt1.train.divergence import describe_rollback, first_names

    found, config = [], settings.scaled()
    if settings.batch_size != PAPER_BATCH:
        plan = f"{config.max_steps:,} steps, warmup {config.warmup:,}, lr {config.lr:.3g}"
        found.append(
            f"batch_size {settings.batch_size} instead of the paper's {PAPER_BATCH}: {plan}"
            f" (lr_scaling {settings.lr_scaling})"
        )
    if books := settings.exclude_books:
        found.append(f"{len(books)} books excluded from the loss: {first_names(books)}")
    if runtime.initial_sha256:
        found.append(f"starts from given weights ({MODEL} {runtime.initial_sha256[:12]})")
    if (fraction := shard.get("train_fraction", 1)) < 1:
        found.append(f"{fraction:g} of the training books")
    if shard.get("sentence_order") == "shuffled":
        found.append("the sentences of each training book in a random order")
    found += [describe_rollback(event) for event in rollbacks]
    return {"deviation": "; ".join(found)} if found else {}


def _files(context: Context) -> dict[str, Any]:
    """What the ranks read, and where they write: the fields of RuntimeConfig of these names."""
    shards, vocabulary = context.input("shard"), context.input("vocabulary")
    return {
        "train": shards.under("train/"), "held_out": shards.under("held_out/"),
        "books": shards.file("books.parquet"),
        "vocabulary": [*vocabulary.under("encoder_bpe_"), *vocabulary.under("vocab_")],
        "output": context.store.folder(context.attempt),
        "earlier": [context.store.folder(p) for p in context.previous_attempts("checkpoints")],
    }  # fmt: skip


def _runtime(vocabulary: Vocabulary, context: Context) -> RuntimeConfig:
    """The same on all hosts: without what `_files` lists."""
    return RuntimeConfig(
        train=(), held_out=(), books="", vocabulary="", output="",
        device="cuda" if context.resources.gpus else "cpu",
        threads=max(1, int(context.resources.cpus)),
        **_start(context.external_files, vocabulary),
    )


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
    for name in ("throughput.jsonl", "hardware.json"):
        context.output(name, volatile=True)


def _summarize(
    settings: PretrainConfig, runtime: RuntimeConfig, context: Context, data: PretrainData
) -> None:
    def lines(file: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    rows = lines(context.attempt / "metrics.jsonl")
    events = [event for file in context.attempt.glob("skipped.jsonl") for event in lines(file)]
    baseline = context.input("shard").summary
    perplexity, unigram, bigram = (
        rows[-1]["validation_perplexity"], baseline["unigram_perplexity"],
        baseline["bigram_perplexity"],
    )
    config = settings.scaled()
    samples = config.max_steps * config.batch_size
    figures: dict[str, Any] = {
        "validation_perplexity": perplexity, "validation_loss": rows[-1]["validation_loss"],
        "validation_bits_per_byte": rows[-1]["validation_bits_per_byte"],
        "train_loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "unigram_perplexity": unigram, "bigram_perplexity": bigram,
        "of_unigram": perplexity / unigram if unigram else None,
        "parameters": config.shape(data.vocabulary.size).parameters(), "steps": config.max_steps,
        "tokens": samples * config.context, "epochs": samples / data.train.per_epoch,
        **_deviation(settings, runtime, events, context.input("shard").settings),
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
