"""Fine-tuning speed: examples a second against transformers' Trainer, with the same weights,
examples and batch size, in one run.

    python benchmarks/finetune.py [--quick] [--task sst2|cola] [--rounds 2]

The Trainer trains OpenAIGPTForSequenceClassification twice: with its default (random batches,
padded to each batch's longest) and with its grouping by length. Ours trains the same classifier
without the auxiliary language-model loss, which the Trainer's has not either; its speed with that
loss is printed too. All evaluate the same dev batch at the end. One batch's loss is compared first,
to 1e-4, without dropout. With one thread (OMP_NUM_THREADS=1) the process's CPU time counts, which
other work on the machine hardly lengthens; else wall time. The best of `--rounds` counts. Bars: 1.5
times the first, 1.25 times the second. Exit status 1 below a bar, 2 where something needed is
missing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks.config import FinetuneConfig
from gpt1.tasks.dataset import (
    InputSpec,
    SpecialIds,
    TokenizedExample,
    TokenizedExamples,
    TokenizedTexts,
    make_batch,
)
from gpt1.tasks.finetune import TaskSet, finetune, make_task_model
from gpt1.tasks.io import sample
from gpt1.tasks.model import TaskModel
from gpt1.tasks.readers import read_task
from gpt1.tasks.registry import TASKS
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.hf import hf_config, hf_weights

BATCH, RATE = 32, 6.25e-5
BARS = {"default padding": 1.5, "group_by_length": 1.25}


class Silent:
    """A reporter that says nothing."""

    def info(self, text: str) -> None: ...

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...


def main() -> int:
    """Run, print, return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small model, under 50 s")
    parser.add_argument("--task", choices=["sst2", "cola"], default="sst2")
    parser.add_argument(
        "--examples", type=int, help="training examples of each run (1,280; quick: 1,024)"
    )
    parser.add_argument("--rounds", type=int, help="runs of each, the best of which counts (2)")
    words = parser.parse_args()
    try:
        import accelerate  # noqa: F401 (the Trainer needs it)
        import transformers
    except ImportError as error:
        raise UserError(
            f"it compares with transformers' Trainer, which needs {error.name}: pip install"
            " transformers accelerate"
        ) from None
    transformers.logging.set_verbosity_error()
    data, rows = load(words.task, words.examples or (1024 if words.quick else 1280))
    shape = (
        {"layers": 4, "width": 128, "heads": 4}
        if words.quick
        else {"layers": 12, "width": 768, "heads": 12}
    )
    gpt = GPT(ModelConfig(vocabulary=rows, context=128, **shape), generator("weights", 1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = make_task_model(gpt, data, settings(0.0))
    theirs = their_model(start)
    difference = loss_difference(start, theirs, data.train[:BATCH])
    runs: dict[str, Callable[[], float]] = {
        "ours": lambda: time_ours(start, data, 0.0, device),
        "default padding": lambda: time_theirs(theirs, data, "random", device),
        "group_by_length": lambda: time_theirs(theirs, data, "group_by_length", device),
        "ours with the auxiliary loss": lambda: time_ours(start, data, 0.5, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(words.rounds or 2):
        for name, measure in runs.items():
            seconds[name].append(measure())
    return report(
        words.task, start,
        {name: len(data.train) // BATCH * BATCH / min(took) for name, took in seconds.items()},
        difference,
    )


def load(name: str, count: int) -> tuple[TaskSet, int]:
    """Real examples as ids of the published vocabulary, and the vocabulary's size."""
    shared = Path(os.environ.get("GPT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    archive = shared / "data" / "tasks" / "glue.tar.xz"
    if not archive.is_file():
        raise UserError(
            f"{archive} is missing; set GPT1_SHARED to the folder that holds data/tasks/glue.tar.xz"
        )
    task = TASKS[name]
    with tempfile.TemporaryDirectory(prefix="gpt1-glue-") as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(
                folder, [member for member in packed if f"/{task.folder}/" in member.name],
                filter="data",
            )
        found = read_task(task, Path(folder))
    vocabulary = Vocabulary.load(shared / "gpt1_bpe")
    encode, form = (
        Tokenizer(vocabulary).encode,
        InputSpec(task.kind, SpecialIds.after(vocabulary.size), 128),
    )
    splits = {}
    for split, rows in (("train", count), ("dev", BATCH)):
        examples = sample(found[split].examples, rows, 1, split)
        splits[split] = list(TokenizedExamples(examples, TokenizedTexts.of(examples, encode), form))
    return TaskSet(task, splits["train"], splits["dev"]), vocabulary.size


def settings(lm_weight: float) -> FinetuneConfig:
    """One epoch with the paper's settings."""
    return FinetuneConfig(
        task="sst2", seed=1, lr=RATE, epochs=1, batch_size=BATCH, lm_weight=lm_weight,
        log_every=10_000,
    )


def seconds_so_far(device: torch.device) -> float:
    """CPU time of the process where one thread computes, wall time elsewhere."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def time_ours(start: TaskModel, data: TaskSet, lm_weight: float, device: torch.device) -> float:
    """Seconds of one epoch, the evaluation at its end included."""
    model = copy.deepcopy(start)
    model.lm_weight = lm_weight
    began = seconds_so_far(device)
    finetune(model, data, settings(lm_weight), device, Silent())
    return seconds_so_far(device) - began


def their_model(start: TaskModel) -> Any:
    """transformers' classifier with the same weights.

    Its head has no bias; ours is 0 at the start.
    """
    from transformers import OpenAIGPTConfig, OpenAIGPTForSequenceClassification

    config = OpenAIGPTConfig(**hf_config(start.gpt.config), num_labels=2)
    model = OpenAIGPTForSequenceClassification(config)
    weights = {**hf_weights(start.gpt), "score.weight": start.head.linear.weight.detach().clone()}
    lacking = model.load_state_dict(weights, strict=False)
    if lacking.unexpected_keys or [
        name for name in lacking.missing_keys if not name.endswith(".attn.bias")
    ]:
        raise RuntimeError(f"the weights do not fit transformers' model: {lacking}")
    return model


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Dynamic padding: to the batch's longest, with the mask that DataCollatorWithPadding gives."""
    ids, lengths, labels = make_batch(
        [TokenizedExample([row["input_ids"]], row["label"]) for row in rows], regression=False
    )
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def time_theirs(start: Any, data: TaskSet, sampling: str, device: torch.device) -> float:
    """Seconds of one epoch of the Trainer, the evaluation at its end included."""
    from transformers import Trainer, TrainingArguments

    train, dev = (
        [{"input_ids": example.sequences[0], "label": int(example.label)} for example in examples]
        for examples in (data.train, data.dev)
    )
    with tempfile.TemporaryDirectory(prefix="gpt1-trainer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=1,
            per_device_eval_batch_size=BATCH, eval_strategy="epoch",
            learning_rate=RATE, weight_decay=0.01, lr_scheduler_type="linear", max_grad_norm=1.0,
            train_sampling_strategy=sampling, dataloader_drop_last=True, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=device.type == "cpu",
            seed=1, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(
            model=copy.deepcopy(start), args=arguments, train_dataset=train, eval_dataset=dev,
            data_collator=collate,
        )  # fmt: skip
        began = seconds_so_far(device)
        trainer.train()
        return seconds_so_far(device) - began


@torch.no_grad()
def loss_difference(ours: TaskModel, theirs: Any, examples: Sequence[TokenizedExample]) -> float:
    """How far the two losses of one batch lie apart, without dropout; RuntimeError beyond 1e-4:
    then the speeds mean nothing.
    """
    ours.eval()
    theirs.eval()
    own = float(ours(*make_batch(examples, regression=False)))
    other = float(
        theirs(
            **collate([{"input_ids": e.sequences[0], "label": int(e.label)} for e in examples])
        ).loss
    )
    if abs(own - other) > 1e-4:
        raise RuntimeError(
            f"the same batch has loss {own:.6f} here and {other:.6f} in transformers: not the same"
            " model"
        )
    return abs(own - other)


def report(task: str, start: TaskModel, speeds: Mapping[str, float], difference: float) -> int:
    """Print the table and the JSON line; 1 below a bar."""
    ratios = {name: speeds["ours"] / speeds[name] for name in BARS}
    for name, speed in speeds.items():
        against = (
            f"  ours is {ratios[name]:.2f} times as fast (bar {BARS[name]})" if name in BARS else ""
        )
        print(f"{name:<30} {speed:9.1f} examples/s{against}")
    passed = all(ratios[name] >= bar for name, bar in BARS.items())
    config = start.gpt.config
    print(json.dumps({
        "benchmark": "finetune", "task": task, "layers": config.layers, "width": config.width,
        "batch": BATCH, "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "examples_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()}, "bars": BARS,
        "loss_difference": difference, "passed": passed,
    }))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"benchmarks/finetune.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
