"""Zero-shot scoring against a straight reading of section 5, one continuation at a time."""

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.loglikelihood import score_continuations
from gpt1.tasks.io import Example
from gpt1.tasks.metrics import score
from gpt1.tasks.registry import TASKS
from gpt1.tasks.zero_shot import best_threshold, continuations, normalized, zero_shot_score
from tests.gpt1 import weight_samples as samples

CONTEXT = 12
RACE = Example("1", ("1 2 3", "4"), ("5 6", "7", "8 9 10", "11 12"), 2)
DPRD = Example("1", ("1 2", "3 4"), ("5", "6 7"), 0)


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def model(special: int = 0) -> GPT:
    return samples.model(1, 30, context=CONTEXT, heads=2, special_tokens=special)


def straight(gpt: GPT, given: list[int], scored: list[int]) -> float:
    total = 0.0
    for place, token in enumerate(scored):
        hidden = gpt(torch.tensor([given + scored[:place]]))[0, -1]
        logits = hidden @ gpt.tokens_embed.weight[:30].T
        total += float(torch.log_softmax(logits, 0)[token].detach())
    return total / len(scored)


Pairs = list[tuple[list[int], list[int]]]
PAIRS = [
    (RACE, "race", [([1, 2, 3, 4], encode(choice)) for choice in RACE.choices]),
    # a referent takes the pronoun's place, and what follows is scored
    (DPRD, "dprd", [([1, 2, 5], [3, 4]), ([1, 2, 6, 7], [3, 4])]),
]


@pytest.mark.parametrize("special", [0, 3])  # rows that are no vocabulary tokens must not count
@pytest.mark.parametrize(("example", "task", "pairs"), PAIRS)
def test_choices_have_their_mean(example: Example, task: str, pairs: Pairs, special: int) -> None:
    gpt = model(special)
    items = continuations(example, TASKS[task], encode, CONTEXT)
    found = [one.mean for one in score_continuations(gpt, items, 3)]
    expected = [straight(gpt, given, scored) for given, scored in pairs]
    assert found == pytest.approx(expected, abs=1e-5)
    reached, [chosen], _ = zero_shot_score(gpt, [example], TASKS[task], encode, 4, 1)
    assert chosen == expected.index(max(expected))
    assert reached.main == 100.0 * (chosen == example.label)


def test_the_text_before_is_cut_from_its_front() -> None:
    example = Example("1", (" ".join(map(str, range(20))),), ("21 22", "23", "24", "25"), 0)
    items = continuations(example, TASKS["race"], encode, CONTEXT)
    found = [(one.ids, one.scored) for one in items[:2]]
    assert found == [([*range(10, 20), 21, 22], 2), ([*range(9, 20), 23], 1)]
    with pytest.raises(UserError, match="tasks of kind entailment have no zero-shot scoring"):
        continuations(Example("1", ("1", "2")), TASKS["rte"], encode, CONTEXT)


def test_scores_are_normalized_between_chance_and_the_best_earlier_model() -> None:
    def share(task: str, labels: list[float], found: list[float]) -> tuple[float, str]:
        return normalized(score(TASKS[task], labels, found), TASKS[task])

    assert share("demo_choice", [0, 1, 0, 1], [0, 1, 0, 0]) == (0.5, "100")
    # from random guess, and not from the majority
    expected = (pytest.approx(25 / 43.2), "best earlier model")
    assert share("sst2", [0, 1, 1, 1], [0, 1, 1, 0]) == expected


def test_acceptability_is_the_sentences_mean_with_a_threshold_from_training() -> None:
    gpt = model()
    texts = [f"{n} {n % 7 + 1} {n % 5 + 2}" for n in range(1, 25)]
    scores = [straight(gpt, encode(text)[:1], encode(text)[1:]) for text in texts]
    cut = sorted(scores)[len(scores) // 2]
    labels = [int(value > cut) for value in scores]
    examples = [Example("n", (text,), label=labels[n]) for n, text in enumerate(texts)]
    found, chosen, about = zero_shot_score(gpt, examples[:8], TASKS["cola"], encode, 5, 1, examples)
    assert found.values["matthews"] == pytest.approx(100)
    assert chosen == labels[:8]
    assert about["threshold"] == pytest.approx(cut, abs=0.5)
    with pytest.raises(UserError, match="no training examples to choose the threshold on"):
        zero_shot_score(gpt, examples, TASKS["cola"], encode, 5, 1)
    assert best_threshold([-4.0, -3.0, -2.0, -1.0], [0, 0, 1, 1]) == -2.5


@pytest.mark.parametrize("pieces", [1, 2])
def test_sentiment_compares_two_words_after_very(pieces: int) -> None:
    gpt = model()
    words = {"very": [20], "positive": [21, 22][:pieces], "negative": [23, 24][:pieces]}

    def spell(text: str) -> list[int]:
        return [id for word in text.split() for id in (words.get(word) or [int(word)])]

    examples = [Example(str(n), (f"{n} {n + 1} 3",), label=n % 2) for n in range(8)]
    _, chosen, _ = zero_shot_score(gpt, examples, TASKS["sst2"], spell, 3, 1)
    for example, choice in zip(examples, chosen, strict=True):
        given = [*encode(example.texts[0]), 20]
        good, bad = (straight(gpt, given, words[word]) for word in ("positive", "negative"))
        assert choice == int(good > bad)


def test_the_last_word_must_be_the_first_choice_of_the_model() -> None:
    gpt = model()

    def best_after(*ids: int) -> int:
        with torch.no_grad():
            return int(gpt.vocabulary_logits(gpt(torch.tensor([ids])))[0, -1].argmax())

    best = best_after(3, 1, 4)
    second = best_after(3, 1, 4, best)
    words = [f"{best}", f"{best} {second}", f"{best} {(second + 1) % 30}", f"{(best + 1) % 30}"]
    examples = [Example(str(n), ("3 1 4", word), label=1) for n, word in enumerate(words)]
    found, chosen, _ = zero_shot_score(gpt, examples, TASKS["lambada"], encode, 3, 1)
    assert (chosen, found.main, found.baseline) == ([1, 1, 0, 0], 50.0, 0.0)
