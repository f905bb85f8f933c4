"""Pre-training as each rank runs it, under Ray Train or `torchrun`:

torchrun --nproc-per-node 2 -m gpt1.train.pretrain --config FILE
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from gpt1.data.shards import TokenShards
from gpt1.data.windows import Windows
from gpt1.errors import UserError
from gpt1.model.loss import LanguageModelling
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.ahead import Ahead
from gpt1.train.checkpoint import Checkpoints
from gpt1.train.checkpoint_record import Checkpoint
from gpt1.train.deepspeed_engine import make_engine, stage_in_force
from gpt1.train.divergence import Diverged
from gpt1.train.engine import Engine, MicroBatch
from gpt1.train.history import History, write_lines
from gpt1.train.initial import initial_model
from gpt1.train.interrupt import Requests, Stopped
from gpt1.train.loop import train
from gpt1.train.optimiser import OptimiserConfig
from gpt1.train.preflight import check_before_training
from gpt1.train.pretrain_config import (
    DEEPSPEED_FOLDER,
    Place,
    PretrainConfig,
    computes_alone,
    differing,
    from_json,
)
from gpt1.train.ranks import Ranks, accumulation
from gpt1.train.reporter import PrintReporter, Reporter
from gpt1.train.rollback import batch_of, describe_rollback, going_back, same_batches, skipped_in
from gpt1.train.saving import Keep
from gpt1.train.schedule import learning_rate
from gpt1.train.speed import Speedometer, peak_tflops
from gpt1.train.trace import Trace
from gpt1.train.validation import HeldOut
from gpt1.train.vault import Vault
from gpt1.train.vault_checkpoints import VaultCheckpoints
from gpt1.train.watch import Watch
from gpt1.weights.store import save_weights

BOOKS_FILE = "held_out_books.jsonl"
THROUGHPUT_FILE = "throughput.jsonl"
NewModule = Callable[[], LanguageModelling]
"""Makes the model with its initial weights."""


def pretrain(
    config: PretrainConfig, place: Place, reporter: Reporter, vault: Vault | None = None
) -> None:
    """Train from the newest whole checkpoint, or from the initial weights, to `config.steps`.

    `vault` keeps the checkpoints where the ranks' hosts share no disk; else they lie in
    `place.output`, which all ranks share.

    Writes into `place.output`: model.safetensors, config.json, snapshots/, metrics.jsonl,
    samples.jsonl, samples.md, held_out_books.jsonl and throughput.jsonl. The last differs from run
    to run; the other files' bytes depend on config, shards, number of ranks and threads alone,
    however often training was killed.

    Raises Stopped, on all ranks after the same step and with a whole checkpoint, when that was
    asked for (gpt1.train.interrupt). Raises UserError for what the user can mend: shards of another
    vocabulary, too little text or memory, a diverging loss.
    """
    ranks = Ranks.connect(place.device, place.threads)
    share = accumulation(config.batch, config.micro_batch, ranks.world)
    vocabulary = Vocabulary.load(Path(place.vocabulary))
    windows, held_out = open_windows(config, place, vocabulary)
    if place.preflight:
        stage = stage_in_force(_deepspeed_file(place), ranks, place.zero_on_one_rank)
        check_before_training(config, place, ranks, stage, reporter.info)
    new_module = partial(ranks.all_make, partial(_new_module, config, place, vocabulary))
    engine = _engine(new_module(), config, place, ranks, share)
    output = Path(place.output)
    keep = Keep(place.keep_checkpoints, place.keep_every)
    checkpoints = (
        Checkpoints(
            output / "checkpoints", [Path(path) for path in place.earlier], keep, ranks,
            reporter.info,
        )
        if vault is None
        else VaultCheckpoints(output, vault, keep, ranks, reporter.info)
    )
    speedometer = Speedometer(
        config.model, config.batch * config.model.context, ranks.world, peak_tflops(ranks.device)
    )
    with Requests(
        ranks, output, place.checkpoint_minutes, place.stop_after, asked=reporter.should_stop
    ) as requests:
        watch = Watch(
            config, engine, ranks, held_out, vocabulary, History(), checkpoints,
            place.checkpoint_every, _facts(config, place, ranks, engine), output, reporter,
            speedometer, requests,
            lambda step: books_of(windows, watch.batch_of(step), config.batch), place.spike,
        )  # fmt: skip
        start = _resume(watch, checkpoints.newest())
        speedometer.start(start)
        try:
            _train(watch, windows, start, new_module)
        except Stopped:
            _settle(watch)
            raise
        _settle(watch)
        _finish(watch)


def books_of(windows: Windows, batch: int, size: int) -> list[str]:
    """The books that a batch of `size` windows was read from, each once, in the order of its
    windows.
    """
    spans = windows.shards.spans
    return list(
        dict.fromkeys(
            spans[windows.place(sample)[0]].book
            for sample in range(batch * size, (batch + 1) * size)
        )
    )


def _train(watch: Watch, windows: Windows, start: int, new_module: NewModule) -> None:
    """To the end, going back where the loss diverges and the configuration has it so."""
    config = watch.config
    rate = partial(
        learning_rate, max_lr=config.max_lr, warmup=config.warmup, steps=config.steps,
        schedule=config.schedule,
    )
    while True:
        try:
            batches = _share_of(windows, watch)
            train(
                watch.engine, batches, rate, steps=config.steps, start=start,
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
    watch.checkpoints.finish()
    watch.forget()

    def fits(checkpoint: Checkpoint) -> bool:
        skipped = skipped_in(History.from_json(checkpoint.history()).skipped)
        return checkpoint.step <= event["first"] and same_batches(
            checkpoint.step, skipped, skipped_in(events)
        )

    found = watch.checkpoints.newest(fits)
    watch.checkpoints.forget_after(found.step if found else 0)
    if watch.ranks.first:
        where = (
            f"to step {found.step}"
            if found
            else "to the start, as there is no earlier checkpoint"
        )
        watch.reporter.info(
            f"warning: {describe_rollback(event)}; rolling back {where} (rollback {len(events)} of"
            f" {watch.config.rollbacks})"
        )
    if found is None:
        watch.history = History()
        watch.engine.begin_anew(dict(new_module().named_parameters()))
    start = _resume(watch, found)
    watch.history.skipped = events
    watch.speedometer.start(start)
    return start


def open_windows(
    config: PretrainConfig, place: Place, vocabulary: Vocabulary
) -> tuple[Windows, HeldOut]:
    """The training windows, and the held-out ones.

    Raises UserError where shards and vocabulary do not belong together, or no book of a set is as
    long as a window.
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
        sets[name] = Windows(shards, config.model.context, config.seed)
    return sets["train"], HeldOut.of(sets["held_out"], vocabulary)


def _engine(
    module: LanguageModelling, config: PretrainConfig, place: Place, ranks: Ranks, share: int
) -> Engine:
    module.gpt.recompute = place.checkpoint_activations
    if config.compile:
        module.compile_for_training(one_graph=computes_alone(ranks.world, place.zero_on_one_rank))
    engine = make_engine(
        module,
        OptimiserConfig(weight_decay=config.weight_decay, clip=config.clip, kind=config.optimizer),
        ranks, settings=_deepspeed_file(place), seed=config.seed, micro_batch=config.micro_batch,
        accumulation=share, precision=config.precision, portable_only=place.portable_only,
        zero_on_one_rank=place.zero_on_one_rank,
    )
    if place.trace:
        engine.observer = Trace(Path(place.output) / "trace", ranks.rank, ranks.device)
    return engine


def _deepspeed_file(place: Place) -> Path:
    return Path(place.deepspeed) if place.deepspeed else DEEPSPEED_FOLDER / "zero1.json"


def _new_module(config: PretrainConfig, place: Place, vocabulary: Vocabulary) -> LanguageModelling:
    """The model with its initial weights, on the CPU."""
    return LanguageModelling(
        initial_model(config, place, vocabulary), config.loss_chunk, config.pad_vocabulary
    )


def _facts(config: PretrainConfig, place: Place, ranks: Ranks, engine: Engine) -> dict[str, object]:
    """What a checkpoint says of itself beside its step.

    To be taken up its `config` must agree; `zero` is the stage in force.
    """
    random = {
        "seed": config.seed,
        "drawn_from": ["seed", "step", "index of the micro-batch in the global batch"],
    }
    return {
        "config": asdict(config), "ranks": ranks.world, "zero": engine.stage, "run": place.run,
        "random": random,
    }


def _share_of(windows: Windows, watch: Watch) -> Callable[[int], Sequence[MicroBatch]]:
    """This rank's micro-batches of a step: rank, rank + world, ... of the global batch."""
    config, ranks, size = watch.config, watch.ranks, watch.config.micro_batch
    skipped = skipped_in(watch.history.skipped)

    def micro_batches(step: int) -> list[MicroBatch]:
        ids = torch.from_numpy(windows.batch(batch_of(step, skipped), config.batch))  # (batch, T+1)
        indices = range(ranks.rank, config.batch // size, ranks.world)
        return [MicroBatch(index, (ids[index * size : (index + 1) * size],)) for index in indices]

    return Ahead(micro_batches, config.steps, pin=ranks.device.type == "cuda")


def _resume(watch: Watch, found: Checkpoint | None) -> int:
    """Take up a checkpoint; returns the number of updates made so far."""
    if found is None:
        return 0
    changed = differing(found.facts["config"], watch.config)
    if changed:
        raise UserError(
            f"{found.folder}: this checkpoint has different settings: {', '.join(changed)} (see its"
            " record.json); use the same ones, or delete the checkpoints to start over"
        )
    watch.history = History.from_json(found.history())
    if watch.ranks.first:
        shape = {name: watch.facts[name] for name in ("ranks", "zero")}
        was = {name: found.facts[name] for name in shape}
        moved = (
            ""
            if was == shape
            else f", saved with {was}, now {shape}: same batches and dropout, different last bits"
        )
        watch.reporter.info(f"resuming after step {found.step} from {found.folder.name}{moved}")
        # A killed driver may have taken the last points with it; a point is drawn once.
        for step, values in watch.history.recent():
            watch.reporter.log(step, values)
        _take_snapshots(found, watch.output / "snapshots", watch.history)
    watch.engine.load(found.folder)
    return found.step


def _take_snapshots(found: Checkpoint, target: Path, history: History) -> None:
    """Copy the snapshots of an earlier attempt into this one; their hashes were checked with the
    checkpoint.
    """
    source = found.folder.parent.parent / "snapshots"
    if source == target:
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in history.snapshots:
        shutil.copyfile(source / name, target / name)


def _settle(watch: Watch) -> None:
    """Let what the ranks have under way together end."""
    watch.requests.settle()
    watch.checkpoints.finish()


def _finish(watch: Watch) -> None:
    weights = watch.model_weights()
    if watch.ranks.first:
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
        if Ranks.connect().first:
            print(stopped)
    Ranks.connect().leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
