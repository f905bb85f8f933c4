"""Generation as a task: metrics on the libraries' published examples, the loss by hand, decoding
with and without a cache and in transformers, and a task that is learned.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sacrebleu.metrics import BLEU

from gpt1.generation import Sampling, generate
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks import finetune as tuning
from gpt1.tasks.config import FinetuneConfig
from gpt1.tasks.dataset import (
    InputSpec,
    SpecialIds,
    TokenizedExample,
    TokenizedExamples,
    TokenizedTexts,
    make_batch,
    sequences,
)
from gpt1.tasks.finetune import TaskSet, make_task_model
from gpt1.tasks.io import Example
from gpt1.tasks.metrics import METRICS, baseline_of, score
from gpt1.tasks.model import TaskModel, generate_targets
from gpt1.tasks.registry import Task, task_named
from gpt1.tasks.text_metrics import bleu_signature, overlap
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.train.trainer import ConsoleReporter
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.hf import export, hf_class
from tests.conftest import refuses
from tests.gpt1 import weight_samples as samples

TASK = task_named("demo_reverse")
GREEDY = Sampling(temperature=0)

# The metrics


@pytest.mark.parametrize(("text", "expected"), [
    ("testing", {"rouge1": 1 / 2, "rougeL": 1 / 2}),
    ("testing one", {"rouge2": 2 / 3, "rougeL": 4 / 5}),
    ("testing two", {"rougeL": 4 / 5}),
    ("", {"rouge1": 0, "rougeL": 0, "meteor_no_synonyms": 0}),
])  # fmt: skip
def test_rouge_is_that_of_its_own_tests(text: str, expected: dict[str, float]) -> None:
    """Of rouge_score/rouge_scorer_test.py."""
    found = overlap("testing one two", text)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


HYPOTHESIS = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
REFERENCE = (
    "It is a guide to action that ensures that the military will forever heed Party commands"
)


def test_meteor_is_that_of_nltk_s_docstring_where_no_synonym_matches() -> None:
    found = overlap(REFERENCE, HYPOTHESIS)["meteor_no_synonyms"]
    assert round(found, 4) == 0.6944  # the docstring's, with WordNet
    assert overlap("this is a cat", "non matching hypothesis")["meteor_no_synonyms"] == 0
    assert overlap("he walked", "he walks")["meteor_no_synonyms"] > 0.9  # equal stems


def test_bleu_is_that_of_sacrebleu() -> None:
    """The example of its README, with two references; then our one reference, without case."""
    texts = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "It was not unexpected.", "The man bit him first."],
        ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."],
    ]
    assert round(BLEU().corpus_score(texts, references).score, 2) == 48.53
    ours = METRICS["bleu"](np.asarray(references[0]), np.asarray([one.lower() for one in texts]))
    assert 100 * ours == pytest.approx(
        BLEU(lowercase=True).corpus_score(texts, references[:1]).score
    )
    assert bleu_signature().startswith("nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")


def test_scores_baseline_and_standard_error() -> None:
    targets, sources = ["a b c d", "e f g h"] * 8, ["d c b a", "e f g h"] * 8
    assert baseline_of(TASK, np.asarray(targets), sources) == (62.5, "copied source")
    found = score(TASK, targets, targets, ["x", "y"] * 8, 0, sources)
    assert (found.main, found.values["bleu/y"], found.baseline) == (100, pytest.approx(100), 62.5)
    half = score(TASK, targets, sources, (), 0, sources)
    errors = [100 * np.std([*values, 1, 0]) / 4 for values in ([0.25, 1] * 8, [1] * 16)]
    assert [one.standard_error for one in (half, found)] == pytest.approx(errors)
    assert (half.above_baseline, half.standard_error_kind) == (0, "mean")
    assert half.above(found) == pytest.approx(-37.5 / np.hypot(*errors))


# The loss

VOCABULARY, CONTEXT = 60, 24
SPECIAL = SpecialIds.after(VOCABULARY)
SPEC = InputSpec("generation", SPECIAL, CONTEXT)
PAIRS = [([5, 9, 11, 3], [7, 8]), ([1], [2, 3, 4, 5, 6, 7]), ([12, 13, 14], [15])]


def model_for(**settings: Any) -> TaskModel:
    gpt = samples.model(1, VOCABULARY, context=CONTEXT, dropout=0.0)
    return make_task_model(gpt, TaskSet(TASK, [], []), FinetuneConfig(task=TASK.name, **settings))


def encoded(pairs: list[tuple[list[int], list[int]]]) -> list[TokenizedExample]:
    return [TokenizedExample(sequences(SPEC, [one], [two]), "") for one, two in pairs]


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_loss_is_that_of_the_target_and_apart_from_it_that_of_the_source(weight: float) -> None:
    model = model_for(lm_weight=weight)
    gpt, parts = model.gpt, []
    for source, target in PAIRS:
        ids = [SPECIAL.start, *source, SPECIAL.delimiter, *target, SPECIAL.extract]
        logits = (gpt(torch.tensor([ids]))[0] @ gpt.tokens_embed.weight.T).detach()
        losses = [-float(logits[n].log_softmax(0)[ids[n + 1]]) for n in range(len(ids) - 1)]
        first = 1 + len(source)  # losses of the source's ids and the delimiter
        parts.append([np.mean(losses[first:]), np.mean(losses[:first])])
    task, lm = np.mean(parts, axis=0)
    found = model(*make_batch(encoded(PAIRS), regression=False))
    assert float(found.detach()) == pytest.approx(task + weight * lm, abs=1e-5)
    assert model.parts is not None
    assert [float(part) for part in model.parts] == pytest.approx([task, lm], abs=1e-5)


def test_source_and_target_have_half_of_the_room_each() -> None:
    [found] = sequences(SPEC, [[1] * 30], [[2] * 30])
    assert found == [SPECIAL.start, *[1] * 10, SPECIAL.delimiter, *[2] * 10, SPECIAL.extract]
    text = Example("1", ("a" * 30,), label="a" * 30)
    texts = TokenizedTexts.of([text], lambda one: [1] * len(one))
    assert (len(texts.texts), TokenizedExamples([text], texts, SPEC).cut) == (2, 1)


# Decoding


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_the_end_may_be_chosen_and_no_other_special_token(kind: str) -> None:
    """With and without a cache the ids of the definition; no more than half of the length."""
    gpt = samples.model(2, VOCABULARY, context=CONTEXT, kind=kind, units=40)
    model = make_task_model(gpt, TaskSet(TASK, [], []), FinetuneConfig(task=TASK.name))
    with torch.no_grad():
        model.gpt.tokens_embed.weight[VOCABULARY:] *= 20
    examples = encoded([([a, b] * (1 + a % 4), []) for a in range(1, 9) for b in (20, 40, 50)])
    ended = set()
    for scale in (0.1, 10, 10):  # of the extract token's logit, one after the other
        with torch.no_grad():
            model.gpt.tokens_embed.weight[SPECIAL.extract] *= scale
        ended |= check_decoding(model, examples)
    assert ended == {True, False}


def check_decoding(model: TaskModel, examples: list[TokenizedExample]) -> set[bool]:
    """Whether texts ended: True, False, or both."""
    prompts = [one.sequences[0][:-1] for one in examples]
    expected, best = [], set()
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + CONTEXT // 2 and ids[-1] != SPECIAL.extract:
            with torch.no_grad():
                logits = model.gpt.lm_logits(model.gpt(torch.tensor([ids])))[0, -1]
            best.add(int(logits.argmax()))
            logits[[SPECIAL.start, SPECIAL.delimiter]] = float("-inf")
            ids.append(int(logits.argmax()))
        expected.append(ids[len(prompt) :])
    assert best & {SPECIAL.start, SPECIAL.delimiter}  # they would have been chosen
    draws = [torch.Generator()] * len(prompts)
    for cache in (True, False):
        found = generate(model.gpt, prompts, CONTEXT // 2, GREEDY, draws, (), None, cache,
                         SPECIAL.extract)  # fmt: skip
        assert found == expected
    texts = generate_targets(model, examples, 5, CONTEXT)
    assert texts == [[one for one in ids if one < VOCABULARY] for ids in expected]
    return {ids[-1] == SPECIAL.extract for ids in expected}


def test_kept_exported_and_in_transformers_it_writes_the_same(tmp_path: Path) -> None:
    tuned, vocabulary = samples.tuned(TASK), samples.vocabulary()
    tokenizer, example = Tokenizer(vocabulary), Example("1", ("the cat",))
    [expected] = tuned.predict([example], tokenizer.encode, tokenizer.decode)
    ours, hf = tmp_path / "ours", tmp_path / "hf"
    save_checkpoint(ours, Checkpoint(tuned.model.gpt, vocabulary, tuned))
    export(hf, tuned.model.gpt, vocabulary, "card", tuned)
    for folder in (ours, hf):
        loaded = load_checkpoint(folder).tuned
        assert loaded is not None
        assert loaded.predict([example], tokenizer.encode, tokenizer.decode) == [expected]
    theirs = getattr(transformers, hf_class(tuned)).from_pretrained(hf).eval()
    special = SpecialIds.after(vocabulary.size)  # as the card says
    ids = [special.start, *tokenizer.encode("the cat"), special.delimiter]
    written = theirs.generate(
        torch.tensor([ids]), do_sample=False, eos_token_id=special.extract, max_new_tokens=8,
        suppress_tokens=[special.start, special.delimiter],
    )[0, len(ids) :]
    assert tokenizer.decode(written[written < special.start].tolist()) == expected.name
    given = (Example("1", ("a", "b")), tokenizer.encode, tokenizer.decode)
    refuses("demo_reverse, example 1: 2 texts, expected 1", tuned.predict, [given[0]], *given[1:])


# Learning


def test_a_small_model_learns_to_reverse() -> None:
    """Ids are their own text; the untrained model is scored first and is no candidate."""
    rng, spec = random.Random(1), InputSpec("generation", SpecialIds.after(20), 16)

    def made(count: int) -> tuple[list[TokenizedExample], list[str]]:
        sources = [[rng.randrange(1, 20) for _ in range(3)] for _ in range(count)]
        rows = [(sequences(spec, [one], [one[::-1]]), decode(one[::-1])) for one in sources]
        return [TokenizedExample(*row) for row in rows], [decode(one) for one in sources]

    def decode(ids: list[int]) -> str:
        return " ".join(map(str, ids))

    (train, _), (dev, sources) = made(1600), made(100)
    data = TaskSet(TASK, train, dev, (), sources, decode)
    config = FinetuneConfig(task=TASK.name, lr=3e-3, epochs=4, batch_size=16, lm_weight=0)
    gpt = GPT(ModelConfig(20, 16, 32, 2, 2, init_std=0.1), generator("weights", 1))
    model = make_task_model(gpt, data, config)
    found = tuning.finetune(model, data, config, torch.device("cpu"), ConsoleReporter())
    assert found.score is not None
    assert found.untrained is not None
    before = {f"dev_{name}": value for name, value in found.untrained.values.items()}
    assert found.curve[0] == {"step": 0, **before}
    assert 1 <= found.best_epoch <= 4
    assert min(found.score.above_baseline, found.score.above(found.untrained)) > 2
    assert tuning.predict(model, dev, TASK, config, decode) == found.predictions
    with torch.no_grad():
        model.gpt.tokens_embed.weight[0, 0] = float("nan")
    refuses("outputs are not finite", tuning.predict, model, dev, TASK, config, decode)


def test_a_task_of_the_user_s_reads_texts_as_labels(tmp_path: Path) -> None:
    from gpt1.tasks.readers import read_task
    from gpt1.tasks.registry import Column, SplitFile

    files = {split: (SplitFile(f"{split}.tsv"),) for split in ("train", "dev")}
    task = Task("my.titles", "Titles", "generation", (), ("rougeL",), "tsv", files=files,
                columns=Column(("story",), "title"))  # fmt: skip
    for split in files:
        (tmp_path / f"{split}.tsv").write_text("story\ttitle\nA long story.\tShort\n")
    found = read_task(task, tmp_path)["dev"].examples
    assert [(one.texts, one.label) for one in found] == [(("A long story.",), "Short")]
