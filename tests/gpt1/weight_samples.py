"""Small models and vocabularies for the tests of weights and generation."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.model import FineTuned, TaskHead, TaskModel
from gpt1.tasks.registry import Task
from gpt1.tokenizer.vocabulary import Vocabulary

Damage = Callable[[Path], object]
"""What changes a folder of weights."""
LETTERS = "etaoinshrdlucmfwypvbgkjqxz.,"


def vocabulary() -> Vocabulary:
    """60 tokens: letters, their final forms, and a merge."""
    return Vocabulary.from_merges(list(LETTERS), [("t", "h"), ("th", "e</w>")])


def model(seed: int = 0, vocabulary_size: int | None = None, **shape: int | float | str) -> GPT:
    """Weights moved off their initial 0 or 1, and far enough from 0 that logits differ clearly."""
    size = vocabulary().size if vocabulary_size is None else vocabulary_size
    small: dict[str, Any] = {"context": 16, "width": 32, "layers": 2, "heads": 4, "init_std": 0.2}
    draw = torch.Generator().manual_seed(seed)
    made = GPT(ModelConfig(vocabulary=size, **{**small, **shape}), draw).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.05, generator=draw))
    return made


def tuned(
    task: Task, seed: int = 0, regression: str = "soft", max_length: int = 16, context: int = 16
) -> FineTuned:
    """A fine-tuned model of random weights, its head's bias too."""
    draw = torch.Generator().manual_seed(seed + 1)
    gpt = model(seed, context=context)
    gpt.extend(3, draw)
    head = TaskHead(task, gpt.config.width, 0.1, regression, draw)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.3, generator=draw)
    return FineTuned(TaskModel(gpt, head, 0.5).eval(), task, max_length, "longest_first")


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def plant(name: str) -> Damage:
    """Write a pickle that leaves a file `mark` in its folder when it is loaded."""
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Bomb(folder / "mark")))


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*patterns: str) -> Damage:
    return lambda folder: [file.unlink() for one in patterns for file in folder.glob(one)]


def edit(name: str, change: Callable[[Any], object]) -> Damage:
    """Rewrite a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps(change(content)))

    return damage
