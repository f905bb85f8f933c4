"""The four input transforms of the paper's figure 1 (section 3.3), and batches by length."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.dataset import (
    InputSpec,
    LabelWords,
    SpecialIds,
    TokenizedExamples,
    TokenizedTexts,
    epoch_batches,
    make_batch,
    pair,
    sequences,
    share_room,
    single,
)
from gpt1.tasks.io import Example
from gpt1.tasks.registry import TASKS
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from tests.conftest import refuses

PUBLISHED = SpecialIds.after(40478)
S, D, E = 40478, 40479, 40480
Ids = list[list[int]]
FIGURE_1 = [
    ("classification", [[1, 2]], [], [[S, 1, 2, E]]),
    ("entailment", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E]]),
    ("similarity", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]]),
    # no delimiter between document and question
    ("choice", [[1, 2], [3]], [[4, 5], [7]], [[S, 1, 2, 3, D, 4, 5, E], [S, 1, 2, 3, D, 7, E]]),
]


@pytest.mark.parametrize(("kind", "texts", "choices", "expected"), FIGURE_1)
def test_each_kind_has_the_papers_form(kind: Any, texts: Ids, choices: Ids, expected: Ids) -> None:
    assert sequences(InputSpec(kind, PUBLISHED, 512), texts, choices) == expected


def test_room_goes_to_the_longer_part_or_each_is_cut_as_the_released_code_does() -> None:
    assert share_room([3, 100], 20) == [3, 17]
    assert sum(share_room([100, 100], 21)) == 21
    spec = InputSpec("entailment", PUBLISHED, 20)
    assert pair([list(range(100))], [7, 8], spec) == [S, *range(15), D, 7, 8, E]
    long, kept, fixed = list(range(600)), range(254), InputSpec("choice", PUBLISHED, 512, "fixed")
    assert single(long, fixed) == [S, *kept, E]
    assert pair([long], long, fixed) == [S, *kept, D, *kept, E]
    # a question is not lost behind a long document
    assert pair([long, [9, 9]], long, fixed)[253:256] == [9, 9, D]


@given(
    st.sampled_from(["classification", "entailment", "similarity", "choice"]),
    st.lists(st.integers(0, 60), min_size=4, max_size=4), st.integers(16, 64),
    st.sampled_from(["longest_first", "fixed"]), st.lists(st.integers(100, 200), max_size=6),
)
def test_neither_extract_token_nor_prompt_is_cut(
    kind: Any, lengths: list[int], context: int, cut: Any, prompt: list[int]
) -> None:
    context, end = context + len(prompt), prompt or [E]
    parts = [[1] * length for length in lengths]
    texts = parts[:1] if kind == "classification" else parts[:2]
    choices = parts[2:] if kind == "choice" else []
    made = sequences(InputSpec(kind, PUBLISHED, context, cut, prompt), texts, choices)
    for sequence in made:
        assert len(sequence) <= context
        assert (sequence[0], sequence[-len(end) :], sequence.count(E)) == (S, end, not prompt)
        assert sequence.count(D) == (kind != "classification")
        if cut == "longest_first" and sum(map(len, texts)) > context:
            assert len(sequence) == context or kind == "choice"


LENGTHS = random.Random(1).choices(range(3, 60), k=1000)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_example_at_most_once(count: int, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(LENGTHS[:count], size, seed, epoch, True)
    places = [place for batch in batches for place in batch]
    assert len(set(places)) == len(places) == count // size * size
    assert batches == epoch_batches(LENGTHS[:count], size, seed, epoch, True)


def test_by_length_pads_little_and_differs_between_seeds_and_epochs() -> None:
    def padding(batches: list[list[int]]) -> float:
        lengths = [[LENGTHS[place] for place in batch] for batch in batches]
        return sum(len(each) * max(each) for each in lengths) / sum(map(sum, lengths))

    first = epoch_batches(LENGTHS, 16, 1, 0, True)
    assert padding(first) < 1.15 < 1.6 < padding(epoch_batches(LENGTHS, 16, 1, 0, False))
    for seed, epoch in ((2, 0), (1, 1)):
        both = (*first, *epoch_batches(LENGTHS, 16, seed, epoch, True))
        assert len(set(map(frozenset, both))) > 1.9 * len(first)


def test_a_prompt_takes_the_place_of_the_extract_token_and_counts_as_cut() -> None:
    spec = InputSpec("entailment", PUBLISHED, 20, prompt=[7, 8, 9])
    assert sequences(spec, [[1, 2], [3]], []) == [[S, 1, 2, D, 3, 7, 8, 9]]
    examples = [Example(str(n), ("5 " * n, "6 " * 5), label=0) for n in (10, 11)]
    texts = TokenizedTexts.of(examples, lambda text: [*map(int, text.split())])
    kept = TokenizedExamples(examples, texts, spec)  # 20 ids, and 21
    assert (kept.cut, len(kept[0].sequences[0]), len(kept[1].sequences[0])) == (1, 20, 20)


def test_label_words_are_tokens_of_the_published_vocabulary(shared: Path) -> None:
    encode = Tokenizer(Vocabulary.load(shared / "gpt1_bpe")).encode
    tasks = [task for task in TASKS.values() if task.label_words]
    assert {"sst2", "cola", "mrpc", "rte", "mnli", "demo_author"} <= {task.name for task in tasks}
    for task in tasks:
        assert [len(encode(word)) for word in task.label_words] == [1] * len(task.label_words)
        assert task.prompt
        found = LabelWords.of(task, encode)
        assert found.prompt == [id for word in task.prompt.split() for id in encode(word)]
        assert len(task.labels) in (0, len(found.words))
    assert LabelWords.of(TASKS["sst2"], encode) == LabelWords([963], [9503, 6353])


@pytest.mark.parametrize("pieces", [{"yes": [4, 1], "no": [4, 2]}, {"yes": [3], "no": [0, 2]}])
def test_label_words_that_begin_alike_or_are_unknown(pieces: dict[str, list[int]]) -> None:
    named = rf"rte: the label words yes, no begin with the tokens \[{pieces['yes'][0]}, "
    refuses(named, LabelWords.of, TASKS["rte"], lambda text: pieces.get(text, [9]))
    known = {"yes": [4, 1], "no": [3, 2]}
    found = LabelWords.of(TASKS["rte"], lambda text: known.get(text, [9]))
    assert found == LabelWords([9], [4, 3])


def test_what_does_not_fit_is_cut_counted_and_keeps_its_extract_token(tmp_path: Path) -> None:
    examples = [Example("0", ("5 " * 100,), label=1), Example("1", ("5 6",), label=0)]
    file = tmp_path / "train.safetensors"
    texts = TokenizedTexts.of(examples, lambda text: [*map(int, text.split())])
    file.write_bytes(texts.to_bytes())
    loading = (TokenizedTexts.load, file, examples[:1])
    refuses(r"2 texts encoded, expected 1 .*; run the encode", *loading)
    spec = InputSpec("classification", PUBLISHED, 20)
    kept = TokenizedExamples(examples, TokenizedTexts.load(file, examples), spec)
    assert (kept.cut, kept[0].sequences) == (1, [[S, *[5] * 18, E]])
    ids, lengths, labels = make_batch(kept[:2], regression=False)
    assert (lengths.tolist(), labels.tolist()) == ([20, 4], [1, 0])
    assert ids[1].tolist() == [*kept[1].sequences[0], *[0] * 16]
