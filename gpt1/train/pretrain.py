"""Pre-training as each rank runs it, under Ray Train or `torchrun`:

torchrun --nproc-per-node 2 -m gpt1.train.pretrain --config FILE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from gpt1.data.sequences import SequenceSampler
from gpt1.data.shards import TokenShards
from gpt1.errors import UserError
from gpt1.model.loss import LanguageModelling
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    CheckpointManager,
    CheckpointStorage,
    RetentionPolicy,
)
from gpt1.train.deepspeed_engine import make_engine, stage_in_force
from gpt1.train.determinism_log import DeterminismLog
from gpt1.train.dist import DistContext, accumulation
from gpt1.train.divergence import Diverged
from gpt1.train.engine import Engine, MicroBatch, initial_state
from gpt1.train.history import History, write_lines
from gpt1.train.initial import initial_model
from gpt1.train.loop import train
from gpt1.train.optimizer import OptimizerConfig
from gpt1.train.prefetcher import Prefetcher
from gpt1.train.preflight import check_before_training
from gpt1.train.pretrain_config import (
    DEEPSPEED_FOLDER,
    PretrainConfig,
    RuntimeConfig,
    computes_alone,
    differing,
    from_json,
)
from gpt1.train.reporter import PrintReporter, Reporter
from gpt1.train.rollback import batch_of, going_back, same_batches, skipped_in, told
from gpt1.train.schedule import learning_rate
from gpt1.train.stop_signal import Stopped, StopSignal
from gpt1.train.throughput import ThroughputMeter, peak_tflops
from gpt1.train.validation import HeldOut
from gpt1.train.watch import Watch
from gpt1.weights.store import save_weights

BOOKS_FILE = "held_out_books.jsonl"
THROUGHPUT_FILE = "throughput.jsonl"
NewModule = Callable[[], LanguageModelling]
"""Makes the model with its initial weights."""


def pretrain(
    config: PretrainConfig, place: RuntimeConfig, reporter: Reporter,
    storage: CheckpointStorage | None = None,
) -> None:
    """Train from the newest whole checkpoint, or from the initial weights, to `config.steps`.

    `storage` keeps the checkpoints where the ranks' hosts share no disk; else they are in
    `place.output`, which all ranks share.

    Writes into `place.output`: model.safetensors, config.json, snapshots/, metrics.jsonl,
    samples.jsonl, samples.md, held_out_books.jsonl and throughput.jsonl. The last differs from run
    to run; the other files' bytes depend on config, shards, number of ranks and threads alone,
    however often training was killed.

    Raises Stopped, on all ranks after the same step and with a complete checkpoint, on request
    (gpt1.train.stop_signal). Raises UserError for shards of another vocabulary, too little text or
    memory, or a diverged loss.
    """
    ranks = DistContext.connect(place.device, place.threads)
    share = accumulation(config.batch, config.micro_batch, ranks.world)
    vocabulary = Vocabulary.load(Path(place.vocabulary))
    sampler, held_out = open_sequences(config, place, vocabulary)
    if place.preflight:
        stage = stage_in_force(_deepspeed_file(place), ranks, place.zero_on_one_rank)
        check_before_training(config, place, ranks, stage, reporter.info)
    new_module = partial(ranks.run_on_all_ranks, partial(_new_module, config, place, vocabulary))
    engine = _engine(new_module(), config, place, ranks, share)
    output = Path(place.output)
    checkpoints = CheckpointManager(
        output, [Path(path) for path in place.earlier],
        RetentionPolicy(place.keep_checkpoints, place.keep_every), ranks, reporter.info, storage,
    )  # fmt: skip
    throughput = ThroughputMeter(
        config.model, config.batch * config.model.context, ranks.world, peak_tflops(ranks.device)
    )
    with StopSignal(
        ranks, output, place.checkpoint_minutes, place.stop_after, asked=reporter.should_stop
    ) as stop_signal:
        watch = Watch(
            config, engine, ranks, held_out, vocabulary, History(), checkpoints,
            place.checkpoint_every, _facts(config, place, ranks, engine), output, reporter,
            throughput, stop_signal, sampler, place.spike,
        )  # fmt: skip
        start = _resume(watch, checkpoints.latest())
        throughput.start(start)
        try:
            _train(watch, start, new_module)
        except Stopped:
            _settle(watch)
            raise
        _settle(watch)
        _finish(watch)


def _train(watch: Watch, start: int, new_module: NewModule) -> None:
    """To the end, going back where the loss diverges and the configuration has it so."""
    config = watch.config
    rate = partial(
        learning_rate, max_lr=config.max_lr, warmup=config.warmup, steps=config.steps,
        schedule=config.schedule,
    )
    while True:
        try:
            train(
                watch.engine, _batches(watch), rate, steps=config.steps, start=start,
                after_step=watch.after_step,
            )
        except Diverged as diverged:
            start = _go_back(watch, diverged, new_module)
        else:
            return


def _go_back(watch: Watch, diverged: Diverged, new_module: NewModule) -> int:
    """Take up the newest checkpoint before the batches that are to be left out, or begin anew;
    returns its number of updates.

    Raises `diverged` where that is not, or no longer, allowed. All ranks come here after the same
    step. The event is told by the checkpoints that follow; a run that is killed before the first of
    them comes to the same loss again, and goes back again.
    """
    event = going_back(diverged, watch.history.skipped, watch.config, watch.books_of)
    events = [*watch.history.skipped, event]
    watch.checkpoints.wait()
    watch.forget()

    def fits(checkpoint: Checkpoint) -> bool:
        skipped = skipped_in(History.from_json(checkpoint.history).skipped)
        return checkpoint.step <= event["first"] and same_batches(
            checkpoint.step, skipped, skipped_in(events)
        )

    found = watch.checkpoints.latest(fits)
    watch.checkpoints.delete_after(found.step if found else 0)
    if watch.ranks.is_main:
        where = (
            f"to step {found.step}"
            if found
            else "to the start, as there is no earlier checkpoint"
        )
        watch.reporter.info(
            f"warning: {told(event)}; rolling back {where} (rollback {len(events)} of"
            f" {watch.config.rollbacks})"
        )
    if found is None:
        watch.history = History()
        watch.engine.load_state(initial_state(dict(new_module().named_parameters())))
    start = _resume(watch, found)
    watch.history.skipped = events
    watch.throughput.start(start)
    return start


def open_sequences(
    config: PretrainConfig, place: RuntimeConfig, vocabulary: Vocabulary
) -> tuple[SequenceSampler, HeldOut]:
    """The training sequences, and the held-out ones.

    Raises UserError where shards and vocabulary do not belong together, no book of a set is as long
    as a sequence, or a book to exclude is not in the training set.
    """
    if vocabulary.size != config.model.vocabulary:
        raise UserError(
            f"model: vocabulary is {config.model.vocabulary}, but {place.vocabulary} has"
            f" {vocabulary.size} tokens"
        )
    sets = {}
    for name, paths in (("train", place.train), ("held_out", place.held_out)):
        shards = TokenShards.open(
            [Path(path) for path in paths], Path(place.books), name, vocabulary.sha256
        )
        excluded = config.exclude_books if name == "train" else ()
        sets[name] = SequenceSampler(shards, config.model.context, config.seed, excluded)
    return sets["train"], HeldOut.of(sets["held_out"], vocabulary)


def _engine(
    module: LanguageModelling, config: PretrainConfig, place: RuntimeConfig, ranks: DistContext,
    share: int,
) -> Engine:
    module.gpt.recompute = place.checkpoint_activations
    if config.compile:
        module.compile_for_training(one_graph=computes_alone(ranks.world, place.zero_on_one_rank))
    engine = make_engine(
        module,
        OptimizerConfig(weight_decay=config.weight_decay, clip=config.clip, kind=config.optimizer),
        ranks, settings=_deepspeed_file(place), seed=config.seed, micro_batch=config.micro_batch,
        accumulation=share, precision=config.precision,
        zero_on_one_rank=place.zero_on_one_rank,
    )
    if place.trace:
        engine.observer = DeterminismLog(Path(place.output) / "trace", ranks.rank, ranks.device)
    return engine


def _deepspeed_file(place: RuntimeConfig) -> Path:
    return Path(place.deepspeed) if place.deepspeed else DEEPSPEED_FOLDER / "zero1.json"


def _new_module(
    config: PretrainConfig, place: RuntimeConfig, vocabulary: Vocabulary
) -> LanguageModelling:
    """The model with its initial weights, on the CPU."""
    return LanguageModelling(
        initial_model(config, place, vocabulary), config.loss_chunk, config.pad_vocabulary
    )


def _facts(
    config: PretrainConfig, place: RuntimeConfig, ranks: DistContext, engine: Engine
) -> CheckpointFacts:
    return CheckpointFacts(asdict(config), ranks.world, engine.stage, place.run)


def _batches(watch: Watch) -> Callable[[int], Sequence[MicroBatch]]:
    """This rank's micro-batches of each step, read ahead."""
    config, ranks, skipped = watch.config, watch.ranks, skipped_in(watch.history.skipped)
    return Prefetcher(
        lambda step: read_share(watch.sampler, batch_of(step, skipped), config, ranks),
        config.steps, pin=ranks.device.type == "cuda",
    )


def read_share(
    sampler: SequenceSampler, batch: int, config: PretrainConfig, ranks: DistContext
) -> list[MicroBatch]:
    """This rank's micro-batches rank, rank + world, ... of a global batch, given by its number.

    No other sequences are read. Where the batch has sequences of excluded books, each micro-batch
    has its sequences' loss weights too, which follow from the order alone: all ranks agree.
    """
    size, share = config.micro_batch, []
    weights = sampler.loss_weights(batch, config.batch)
    for index in range(ranks.rank, config.batch // size, ranks.world):
        rows = range(index * size, (index + 1) * size)
        ids = torch.from_numpy(sampler.batch(batch, config.batch, rows))  # (micro_batch, T + 1)
        more = () if weights is None else (torch.from_numpy(weights[rows.start : rows.stop]),)
        share.append(MicroBatch(index, (ids, *more)))
    return share


def _resume(watch: Watch, found: Checkpoint | None) -> int:
    """Take up a checkpoint; returns the number of updates made so far."""
    if found is None:
        return 0
    changed = differing(found.facts.config, watch.config)
    if changed:
        raise UserError(
            f"{found.folder}: this checkpoint has different settings: {', '.join(changed)} (see its"
            " manifest.json); use the same ones, or delete the checkpoints to start over"
        )
    watch.history = History.from_json(found.history)
    if watch.ranks.is_main:
        was, shape = (
            {"ranks": facts.ranks, "zero": facts.zero} for facts in (found.facts, watch.facts)
        )
        moved = (
            ""
            if was == shape
            else f", saved with {was}, now {shape}: same batches and dropout, different last bits"
        )
        watch.reporter.info(f"resuming after step {found.step} from {found.folder.name}{moved}")
        # A killed driver may have taken the last points with it; a point is drawn once.
        for step, values in watch.history.recent():
            watch.reporter.log(step, values)
    watch.engine.load_state(found.state)
    return found.step


def _settle(watch: Watch) -> None:
    """Let what the ranks have under way together end."""
    watch.stop_signal.settle()
    watch.checkpoints.wait()


def _finish(watch: Watch) -> None:
    weights = watch.model_weights()
    if watch.ranks.is_main:
        save_weights(watch.output, weights, watch.config.model)
        watch.history.write(watch.output)
        write_lines(watch.output / BOOKS_FILE, watch.history.books)
        write_lines(watch.output / THROUGHPUT_FILE, watch.speeds)
    watch.ranks.barrier()


def main() -> int:
    """The command line of `torchrun -m gpt1.train.pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", type=Path, required=True,
        help="JSON written by gpt1.train.pretrain_config.to_json",
    )
    arguments = parser.parse_args()
    try:
        pretrain(*from_json(arguments.config), PrintReporter())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if DistContext.connect().is_main:
            print(stopped)
    DistContext.connect().destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
