"""Zero-shot scoring against a straight reading of SPEC section 6, one continuation at a time."""

from __future__ import annotations

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.example import Example
from gpt1.tasks.metrics import score
from gpt1.tasks.table import TASKS
from gpt1.tasks.zero_shot import answers, continuations, mean_log_probabilities, normalised, zero_shot_score
from gpt1.train.random_state import generator

CONTEXT = 12


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def model(special: int = 0) -> GPT:
    config = ModelConfig(vocabulary=30, context=CONTEXT, width=32, layers=2, heads=2, dropout=0.1, special_tokens=special)
    return GPT(config, generator("weights", 1)).eval()


def straight(gpt: GPT, given: list[int], scored: list[int]) -> float:
    total = 0.0
    for place in range(len(scored)):
        hidden = gpt(torch.tensor([given + scored[:place]]))[0, -1]
        logits = hidden @ gpt.tokens_embed.weight[:30].T
        total += float(torch.log_softmax(logits, 0)[scored[place]].detach())
    return total / len(scored)


RACE = Example("1", ("1 2 3", "4"), ("5 6", "7", "8 9 10", "11 12"), 2)


@pytest.mark.parametrize("special", [0, 3])
def test_choice_is_the_mean_over_the_answers_tokens(special: int) -> None:
    gpt = model(special)  # rows that are no vocabulary tokens must not count
    items = continuations(RACE, TASKS["race"], encode, CONTEXT)
    found = mean_log_probabilities(gpt, items, 3, torch.device("cpu"))
    expected = [straight(gpt, [1, 2, 3, 4], encode(choice)) for choice in RACE.choices]
    assert found == pytest.approx(expected, abs=1e-5)
    assert answers(found, 4) == [max(range(4), key=lambda n: expected[n])]


def test_a_referent_takes_the_pronouns_place_and_what_follows_is_scored() -> None:
    gpt = model()
    example = Example("1", ("1 2", "3 4"), ("5", "6 7"), 0)
    found = mean_log_probabilities(gpt, continuations(example, TASKS["dprd"], encode, CONTEXT), 8, torch.device("cpu"))
    assert found == pytest.approx([straight(gpt, [1, 2, 5], [3, 4]), straight(gpt, [1, 2, 6, 7], [3, 4])], abs=1e-5)


def test_the_text_before_is_cut_from_its_front() -> None:
    example = Example("1", (" ".join(str(n) for n in range(20)),), ("21 22", "23", "24", "25"), 0)
    items = continuations(example, TASKS["race"], encode, CONTEXT)
    assert items[0].ids == [*range(10, 20), 21, 22]
    assert items[0].scored == 2
    assert items[1].ids == [*range(9, 20), 23]


def test_the_score_of_a_set() -> None:
    gpt = model()
    examples = [Example(str(n), (f"{n} 2",), ("5", "6", "7", "8"), n % 4, "high") for n in range(8)]
    found, chosen = zero_shot_score(gpt, examples, TASKS["race"], encode, 4, 1)
    assert found.main == 100 * sum(answer == n % 4 for n, answer in enumerate(chosen)) / 8
    assert found.values["accuracy/high"] == found.main


def test_normalised_between_chance_and_the_best_earlier_model() -> None:
    reached = score(TASKS["race"], [0, 1, 2, 3], [0, 1, 0, 0])
    assert normalised(reached, TASKS["race"]) == (pytest.approx((50 - 25) / (53.3 - 25)), "best earlier model")
    other = score(TASKS["demo_choice"], [0, 1, 0, 1], [0, 1, 0, 0])
    assert normalised(other, TASKS["demo_choice"]) == (0.5, "100")


def test_other_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="tasks of kind entailment are not scored zero-shot"):
        continuations(Example("1", ("1", "2")), TASKS["rte"], encode, CONTEXT)
