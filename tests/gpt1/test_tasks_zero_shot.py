"""Zero-shot scoring against a straight reading of SPEC section 6, one continuation at a time."""

from __future__ import annotations

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.continuations import Continuation, score_continuations
from gpt1.tasks.example import Example
from gpt1.tasks.metrics import score
from gpt1.tasks.table import TASKS
from gpt1.tasks.zero_shot import answers, best_threshold, continuations, normalised, zero_shot_score
from gpt1.train.random_state import generator

CONTEXT = 12


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def model(special: int = 0) -> GPT:
    config = ModelConfig(vocabulary=30, context=CONTEXT, width=32, layers=2, heads=2, dropout=0.1, special_tokens=special)
    return GPT(config, generator("weights", 1)).eval()


def means(gpt: GPT, items: list[Continuation], batch: int) -> list[float]:
    return [found.mean for found in score_continuations(gpt, items, batch, torch.device("cpu"))]


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
    found = means(gpt, items, 3)
    expected = [straight(gpt, [1, 2, 3, 4], encode(choice)) for choice in RACE.choices]
    assert found == pytest.approx(expected, abs=1e-5)
    assert answers(found, 4) == [max(range(4), key=lambda n: expected[n])]


def test_a_referent_takes_the_pronouns_place_and_what_follows_is_scored() -> None:
    gpt = model()
    example = Example("1", ("1 2", "3 4"), ("5", "6 7"), 0)
    found = means(gpt, continuations(example, TASKS["dprd"], encode, CONTEXT), 8)
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
    found, chosen, _ = zero_shot_score(gpt, examples, TASKS["race"], encode, 4, 1)
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


def test_acceptability_is_the_mean_over_the_sentence_with_a_threshold_from_training() -> None:
    gpt = model()
    sentences = [f"{n} {n % 7 + 1} {n % 5 + 2}" for n in range(1, 25)]
    scores = [straight(gpt, encode(text)[:1], encode(text)[1:]) for text in sentences]
    cut = sorted(scores)[len(scores) // 2]
    examples = [
        Example(str(n), (text,), label=int(value > cut)) for n, (text, value) in enumerate(zip(sentences, scores, strict=True))
    ]
    found, chosen, about = zero_shot_score(gpt, examples[:8], TASKS["cola"], encode, 5, 1, examples)
    assert found.values["matthews"] == pytest.approx(100)
    assert chosen == [example.label for example in examples[:8]]
    assert about["threshold"] == pytest.approx(cut, abs=0.5)
    with pytest.raises(UserError, match="no training examples to choose the threshold on"):
        zero_shot_score(gpt, examples, TASKS["cola"], encode, 5, 1)


def test_the_best_threshold_of_a_few() -> None:
    assert best_threshold([-4.0, -3.0, -2.0, -1.0], [0, 0, 1, 1]) == -2.5
    assert best_threshold([-4.0, -3.0], [1, 1]) == float("-inf")


@pytest.mark.parametrize("pieces", [1, 2])
def test_sentiment_compares_two_words_after_very(pieces: int) -> None:
    gpt = model()
    words = {"very": [20], "positive": [21, 22][:pieces], "negative": [23, 24][:pieces]}

    def spell(text: str) -> list[int]:
        return [number for word in text.split() for number in words.get(word, [int(word) if word.isdigit() else 0])]

    examples = [Example(str(n), (f"{n} {n + 1} 3",), label=n % 2) for n in range(8)]
    _, chosen, _ = zero_shot_score(gpt, examples, TASKS["sst2"], spell, 3, 1)
    for example, choice in zip(examples, chosen, strict=True):
        given = [*encode(example.texts[0]), 20]
        positive, negative = (straight(gpt, given, words[word]) for word in ("positive", "negative"))
        assert choice == int(positive > negative)


def test_the_last_word_must_be_the_first_choice_of_the_model() -> None:
    gpt = model()
    given = [3, 1, 4]
    with torch.no_grad():
        best = int(gpt.vocabulary_logits(gpt(torch.tensor([given])))[0, -1].argmax())
        second = int(gpt.vocabulary_logits(gpt(torch.tensor([[*given, best]])))[0, -1].argmax())
    words = [f"{best}", f"{best} {second}", f"{best} {(second + 1) % 30}", f"{(best + 1) % 30}"]
    examples = [Example(str(n), ("3 1 4", word), label=1) for n, word in enumerate(words)]
    found, chosen, _ = zero_shot_score(gpt, examples, TASKS["lambada"], encode, 3, 1)
    assert chosen == [1, 1, 0, 0]
    assert (found.main, found.baseline) == (50.0, 0.0)


def test_sentiment_is_normalised_from_random_guess_and_not_from_the_majority() -> None:
    reached = score(TASKS["sst2"], [0, 1, 1, 1], [0, 1, 1, 0])
    assert normalised(reached, TASKS["sst2"])[0] == pytest.approx((75 - 50) / (93.2 - 50))
