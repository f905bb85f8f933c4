"""Zero-shot scoring (paper, section 5): no fine-tuning, no special tokens, only the language model.

- Multiple choice (RACE): the answer with the highest mean log-probability of its tokens, given
  document and question.
- Referents (DPRD, WSC273): each is put in the pronoun's place; the mean log-probability of the
  tokens AFTER it decides.
- Acceptability (CoLA): the mean log-probability of a sentence's tokens, thresholded. The paper does
  not state its threshold. Ours is the one with the best Matthews coefficient on labelled training
  sentences (at most 2,000, drawn by seed), chosen anew for each model; the dev sentences take no
  part in it. The first token, which has nothing before it, is not scored.
- Sentiment (SST-2): `very` is appended; the likelier of `positive` and `negative` decides. A
  vocabulary in which they are several tokens is served too: the log-probabilities of a word's
  tokens are added.
- The last word (LAMBADA): right when the most likely tokens, one after the other, are those of the
  word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gpt1.errors import UserError
from gpt1.generation.decoding import evaluating
from gpt1.model.gpt import GPT
from gpt1.model.loglikelihood import Continuation, Scored, continuation, score_continuations
from gpt1.tasks.dataset import Encode
from gpt1.tasks.io import Example, sample
from gpt1.tasks.metrics import METRICS, Score, score
from gpt1.tasks.registry import TASKS, Task

THRESHOLD_ROWS = 2_000
SENTIMENT = TASKS["sst2"]
"""Its words are compared after its prompt, `very` (paper, section 5), in any task judged so."""


def continuations(example: Example, task: Task, encode: Encode, context: int) -> list[Continuation]:
    """What is scored for one example: one for each answer, or one.

    UserError for a task that is not scored zero-shot.
    """
    pairs = _pairs(example, task)
    return [
        continuation(encode(given) if given else [], encode(scored), context)
        for given, scored in pairs
    ]


def _pairs(example: Example, task: Task) -> list[tuple[str, str]]:
    """(given, scored) texts."""
    texts, how = example.texts, task.zero_shot
    if how == "referents":
        return [(f"{texts[0]} {choice}".strip(), texts[1]) for choice in example.choices]
    if how == "answers":
        return [("\n".join(texts), choice) for choice in example.choices]
    if how == "acceptability":
        return [("", texts[0])]
    if how == "sentiment":
        return [(f"{texts[0]} {SENTIMENT.prompt}", word) for word in SENTIMENT.label_words]
    if how == "last_word":
        return [(texts[0], texts[1])]
    known = ", ".join(name for name, one in TASKS.items() if one.zero_shot)
    kind = f"tasks of kind {task.kind} have no zero-shot scoring"
    raise UserError(f"{task.name}: {kind}; choose one of: {known}")


def best_answers(values: Sequence[float], choices: int) -> list[int]:
    """The best of each question's `choices` values; the first of equal ones."""
    questions = np.asarray(values).reshape(-1, choices)  # (N, choices)
    return questions.argmax(-1).tolist()


def best_threshold(means: Sequence[float], labels: Sequence[int]) -> float:
    """The value with the best Matthews coefficient when sentences above it are called acceptable;
    the lowest of equally good ones.

    Midway between two neighbouring means, or below all of them (then everything is acceptable).
    """
    ordered = sorted({mean for mean in means if np.isfinite(mean)})
    truth, values = np.asarray(labels), np.asarray(means)
    found = [float("-inf"), *((a + b) / 2 for a, b in pairwise(ordered))]
    scored = [METRICS["matthews"](truth, (values > threshold).astype(int)) for threshold in found]
    return found[int(np.argmax(scored))]


def normalized(reached: Score, task: Task) -> tuple[float, str]:
    """The score between random guess (0) and the best earlier single model (1), as in figure 2;
    100 where none is known.
    """
    chance = reached.baseline
    if reached.metric == "accuracy" and task.zero_shot == "sentiment":
        chance = 100 / len(task.labels)  # the figure counts from a guess, whatever the majority
    best = task.best.get(reached.metric, 100.0)
    return (reached.main - chance) / (best - chance), "best earlier model" if task.best else "100"


def zero_shot_score(
    gpt: GPT, examples: Sequence[Example], task: Task, encode: Encode, batch: int, seed: int,
    training: Sequence[Example] = (),
) -> tuple[Score, list[int], dict[str, float]]:
    """The model's score on the examples, its answers, and what was chosen on the way (CoLA's
    threshold).

    `training`: labelled examples for the threshold; UserError when it is needed and there are none.
    """

    def judge(examples: Sequence[Example]) -> list[Scored]:
        context = gpt.config.context
        items = [one for each in examples for one in continuations(each, task, encode, context)]
        with evaluating(gpt):
            return score_continuations(gpt, items, batch)

    found, chosen = judge(examples), {}
    if task.zero_shot == "acceptability":
        rows = sample(list(training), THRESHOLD_ROWS, seed, "threshold")
        if not rows:
            raise UserError(
                f"{task.name}: no training examples to choose the threshold on; the task's data"
                " must have a train split"
            )
        means = [one.mean for one in judge(rows)]
        threshold = best_threshold(means, [int(example.label or 0) for example in rows])
        predictions, chosen = [int(one.mean > threshold) for one in found], {"threshold": threshold}
    elif task.zero_shot == "sentiment":
        predictions = best_answers([one.total for one in found], 2)
    elif task.zero_shot == "last_word":
        predictions = [int(one.greedy) for one in found]
    else:
        predictions = best_answers([one.mean for one in found], task.choices)
    labels = [float(example.label or 0) for example in examples]
    groups = [example.group for example in examples]
    return score(task, labels, predictions, groups, seed), predictions, chosen
