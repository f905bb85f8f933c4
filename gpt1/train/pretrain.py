"""Pre-training as every rank runs it, under Ray Train or `torchrun`:

torchrun --nproc-per-node 2 -m gpt1.train.pretrain --config FILE
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from gpt1.data.shards import TokenShards
from gpt1.data.windows import Windows
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.checkpoint import Checkpoint, Checkpoints
from gpt1.train.deepspeed_engine import SETTINGS_FOLDER, DeepSpeedEngine
from gpt1.train.engine import MicroBatch
from gpt1.train.history import History, write_lines
from gpt1.train.loop import train
from gpt1.train.optimiser import OptimiserConfig
from gpt1.train.pretrain_config import Place, PretrainConfig, from_json
from gpt1.train.random_state import generator
from gpt1.train.ranks import Ranks, accumulation
from gpt1.train.reporter import PrintReporter, Reporter
from gpt1.train.schedule import learning_rate
from gpt1.train.speed import Speedometer, peak_tflops
from gpt1.train.watch import Watch
from gpt1.weights.store import save_weights

THROUGHPUT_FILE = "throughput.jsonl"


def pretrain(config: PretrainConfig, place: Place, reporter: Reporter) -> None:
    """Train from the newest whole checkpoint, or from random weights, to `config.steps`.

    Writes into `place.output`: model.safetensors, config.json, snapshots/, metrics.jsonl, samples.jsonl, samples.md and
    throughput.jsonl. The last differs from run to run; the other files' bytes depend on config, shards, number of ranks and threads
    alone, however often training was killed.

    Raises UserError for what the user can mend: shards of another vocabulary, too little text, a diverging loss.
    """
    ranks = Ranks.connect(place.device, place.threads)
    share = accumulation(config.batch, config.micro_batch, ranks.world)
    vocabulary = Vocabulary.load(Path(place.vocabulary))
    windows, held_out = open_windows(config, place, vocabulary)
    engine = _engine(config, place, ranks, share)
    output = Path(place.output)
    checkpoints = Checkpoints(
        output / "checkpoints", [Path(path) for path in place.earlier], place.keep_checkpoints, ranks, reporter.say
    )
    speedometer = Speedometer(config.model, config.batch * config.model.context, ranks.world, peak_tflops(ranks.device))
    watch = Watch(
        config, engine, ranks, held_out, TextEncoder(vocabulary), History(), checkpoints, place.checkpoint_every,
        _facts(config, ranks, engine), output, reporter, speedometer,
    )  # fmt: skip
    start = _resume(watch, checkpoints.newest())
    speedometer.start(start)
    train(
        engine,
        _share_of(windows, config, ranks),
        lambda step: learning_rate(step, max_lr=config.max_lr, warmup=config.warmup, steps=config.steps, schedule=config.schedule),
        steps=config.steps,
        start=start,
        after_step=watch.after_step,
    )
    _finish(watch)


def open_windows(config: PretrainConfig, place: Place, vocabulary: Vocabulary) -> tuple[Windows, np.ndarray]:
    """The training windows, and all validation windows (N, T+1).

    Raises UserError where shards and vocabulary do not belong together, or no book of a set is as long as a window.
    """
    if vocabulary.size != config.model.vocabulary:
        raise UserError(f"model: vocabulary is {config.model.vocabulary}, but {place.vocabulary} has {vocabulary.size} tokens")
    sets = {}
    for name, paths in (("train", place.train), ("held_out", place.held_out)):
        shards = TokenShards.open([Path(path) for path in paths], Path(place.books), name, vocabulary.sha256)
        sets[name] = Windows(shards, config.model.context, config.seed)
    return sets["train"], sets["held_out"].validation()


def _engine(config: PretrainConfig, place: Place, ranks: Ranks, share: int) -> DeepSpeedEngine:
    model = GPT(config.model, generator("weights", config.seed))
    return DeepSpeedEngine(
        LanguageModelling(model),
        OptimiserConfig(weight_decay=config.weight_decay, clip=config.clip),
        ranks,
        settings=Path(place.deepspeed) if place.deepspeed else SETTINGS_FOLDER / "zero1.json",
        seed=config.seed,
        micro_batch=config.micro_batch,
        accumulation=share,
        precision=config.precision,
    )


def _facts(config: PretrainConfig, ranks: Ranks, engine: DeepSpeedEngine) -> dict[str, object]:
    """What a checkpoint must agree with to be taken up."""
    values = {**asdict(config), "prompts": [prompt.text for prompt in config.prompts]}
    return {"config": values, "ranks": ranks.world, "zero": engine.stage}


def _share_of(windows: Windows, config: PretrainConfig, ranks: Ranks) -> Callable[[int], Sequence[MicroBatch]]:
    """This rank's micro-batches of a step: rank, rank + world, ... of the global batch."""
    size = config.micro_batch

    def micro_batches(step: int) -> list[MicroBatch]:
        ids = torch.from_numpy(windows.batch(step, config.batch))  # (batch, T+1)
        indices = range(ranks.rank, config.batch // size, ranks.world)
        return [MicroBatch(index, (ids[index * size : (index + 1) * size],)) for index in indices]

    return micro_batches


def _resume(watch: Watch, found: Checkpoint | None) -> int:
    """Take up a checkpoint; returns the number of updates made so far."""
    if found is None:
        return 0
    differing = [name for name, value in watch.facts.items() if found.facts.get(name) != value]
    if differing:
        plain = [name for name in differing if name != "config"]
        detail = "; ".join(f"{name}: {found.facts.get(name)!r}, now {watch.facts[name]!r}" for name in plain)
        raise UserError(
            f"{found.folder}: this checkpoint was made with other {', '.join(differing)} ({detail or 'see its record.json'}); "
            f"go on with the same, or delete the checkpoints to start anew"
        )
    watch.history = History.from_json(found.history())
    if watch.ranks.first:
        watch.reporter.say(f"resuming after step {found.step} from {found.folder.name}")
        _take_snapshots(found, watch.output / "snapshots", watch.history)
    watch.engine.load(found.folder)
    return found.step


def _take_snapshots(found: Checkpoint, target: Path, history: History) -> None:
    """Copy the snapshots of an earlier attempt into this one; their hashes were checked with the checkpoint."""
    source = found.folder.parent.parent / "snapshots"
    if source == target:
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in history.snapshots:
        shutil.copyfile(source / name, target / name)


def _finish(watch: Watch) -> None:
    weights = watch.model_weights()
    if watch.ranks.first:
        save_weights(watch.output, weights, watch.config.model)
        watch.history.write(watch.output)
        write_lines(watch.output / THROUGHPUT_FILE, watch.speeds)
    watch.ranks.barrier()


def main() -> int:
    """The command line of `torchrun -m gpt1.train.pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON written by gpt1.train.pretrain_config.to_json")
    arguments = parser.parse_args()
    try:
        pretrain(*from_json(arguments.config), PrintReporter())
        Ranks.connect().leave()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
