"""Zero-shot scoring of multiple choice (SPEC section 6): no fine-tuning, no special tokens, only the language model.

The answer with the highest mean log-probability of its tokens wins, given document and question. For a pronoun (DPRD) each
referent is put in its place and the tokens AFTER it are scored. Rows that are no vocabulary tokens are left out of the softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.tasks.example import Example
from gpt1.tasks.metrics import Score, score
from gpt1.tasks.table import ZERO_SHOT_KINDS, Task


@dataclass(frozen=True)
class Continuation:
    """Ids, of which the last `scored` are judged given all before them."""

    ids: list[int]
    scored: int


def continuations(example: Example, task: Task, encode: Callable[[str], list[int]], context: int) -> list[Continuation]:
    """One for each answer. What does not fit is cut from the front of the text before, so that the answer is whole."""
    if task.kind == "referent":
        before, after = example.texts
        pairs = [(f"{before} {choice}", after) for choice in example.choices]
    elif task.kind == "choice":
        given = "\n".join(example.texts)
        pairs = [(given, choice) for choice in example.choices]
    else:
        raise UserError(
            f"{task.name}: tasks of kind {task.kind} are not scored zero-shot; {' or '.join(ZERO_SHOT_KINDS)} was expected"
        )
    return [_continuation(encode(given), encode(scored), context) for given, scored in pairs]


def _continuation(given: list[int], scored: list[int], context: int) -> Continuation:
    kept = scored[: context - 1]
    room = context - len(kept)
    ids = given[max(0, len(given) - room) :] + kept
    return Continuation(ids, min(len(kept), len(ids) - 1))  # with nothing before it the first id cannot be judged


@torch.no_grad()
def mean_log_probabilities(gpt: GPT, items: Sequence[Continuation], batch: int, device: torch.device) -> list[float]:
    """The mean log-probability (nats a token) of each continuation; -inf for an empty one."""
    gpt.eval()
    means = [float("-inf")] * len(items)
    by_length = sorted(
        (place for place, item in enumerate(items) if item.scored > 0), key=lambda place: (len(items[place].ids), place)
    )
    for start in range(0, len(by_length), batch):
        places = by_length[start : start + batch]
        for place, mean in zip(places, _batch_means(gpt, [items[place] for place in places], device), strict=True):
            means[place] = mean
    return means


def _batch_means(gpt: GPT, items: Sequence[Continuation], device: torch.device) -> list[float]:
    ids = torch.zeros(len(items), max(len(item.ids) for item in items), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, len(item.ids) - item.scored : len(item.ids)] = True
    ids, mask = ids.to(device), mask[:, 1:].to(device)  # (N, T), (N, T-1)
    hidden: Tensor = gpt(ids)
    logits = gpt.vocabulary_logits(hidden[:, :-1][mask]).float()  # only where a token is judged
    losses = F.cross_entropy(logits, ids[:, 1:][mask], reduction="none")
    sums = torch.zeros(len(items), device=device).index_add_(0, mask.nonzero()[:, 0], losses)
    return (-sums / mask.sum(-1)).tolist()


def answers(means: Sequence[float], choices: int) -> list[int]:
    """The best of each question's `choices` means; the first of equal ones."""
    questions = [means[start : start + choices] for start in range(0, len(means), choices)]
    return [max(range(choices), key=lambda choice: (question[choice], -choice)) for question in questions]


def normalised(reached: Score, task: Task) -> tuple[float, str]:
    """The score between random guess (0) and the best earlier single model (1), as in figure 2; 100 where none is known."""
    best = task.best.get(reached.metric, 100.0)
    return (reached.main - reached.baseline) / (best - reached.baseline), "best earlier model" if task.best else "100"


def zero_shot_score(
    gpt: GPT, examples: Sequence[Example], task: Task, encode: Callable[[str], list[int]], batch: int, seed: int
) -> tuple[Score, list[int]]:
    """The model's score on the examples, and its answers."""
    items = [item for example in examples for item in continuations(example, task, encode, gpt.config.context)]
    device = gpt.tokens_embed.weight.device
    found = answers(mean_log_probabilities(gpt, items, batch, device), task.choices)
    labels = [float(example.label or 0) for example in examples]
    return score(task, labels, found, [example.group for example in examples], seed), found
