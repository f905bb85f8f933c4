"""Small models and vocabularies for the tests of weights and generation."""

from __future__ import annotations

import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.finetuned import FineTuned
from gpt1.tasks.heads import TaskHead
from gpt1.tasks.table import Task
from gpt1.tasks.task_model import TaskModel
from gpt1.text.vocabulary import Vocabulary

LETTERS = "etaoinshrdlucmfwypvbgkjqxz.,"


def vocabulary() -> Vocabulary:
    """60 tokens: letters, their final forms, and a merge."""
    return Vocabulary.from_merges(list(LETTERS), [("t", "h"), ("th", "e</w>")])


def model(seed: int = 0, vocabulary_size: int | None = None, **shape: int | float | str) -> GPT:
    """Weights with every tensor moved off its initial 0 or 1, and far enough from 0 that logits differ clearly."""
    size = vocabulary().size if vocabulary_size is None else vocabulary_size
    given: dict[str, object] = {"context": 16, "width": 32, "layers": 2, "heads": 4, "init_std": 0.2, **shape}
    draw = torch.Generator().manual_seed(seed)
    made = GPT(ModelConfig(vocabulary=size, **given), draw).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.05, generator=draw))
    return made


def tuned(task: Task, seed: int = 0, regression: str = "soft", max_length: int = 16, context: int = 16) -> FineTuned:
    """A fine-tuned model of random weights, its head's bias too."""
    gpt = model(seed, context=context)
    gpt.extend(3, torch.Generator().manual_seed(seed + 1))
    head = TaskHead(task, gpt.config.width, 0.1, regression, torch.Generator().manual_seed(seed + 2))  # type: ignore[arg-type]
    with torch.no_grad():
        head.linear.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed + 3))
        head.linear.bias.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed + 4))
    return FineTuned(TaskModel(gpt, head, 0.5).eval(), task, max_length, "room")
