"""Generation: the definition, with and without cache, alone and in batches; transformers' beams."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gpt1 import api
from gpt1.generation import BeamSearch, Sampling, beam_search, choose, generate, restrict
from gpt1.model.gpt import GPT
from gpt1.weights.checkpoint import Checkpoint
from gpt1.weights.hf import hf_config, hf_weights
from tests.conftest import refuses
from tests.gpt1 import weight_samples as samples

GREEDY = Sampling(temperature=0)
PROMPTS = ([1], [5, 9, 3, 2, 7], [4, 4], [8, 1, 30, 22, 11, 6, 2, 15, 40])


def draws(count: int = len(PROMPTS)) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def one_by_one(model: GPT, prompt: Sequence[int], new: int) -> list[int]:
    """Greedy from the definition: all ids in the context are read again for each token."""
    ids, start, context = list(prompt), 0, model.config.context
    for _ in range(new):
        while len(ids) - start > context:  # the older half is forgotten
            start += context - context // 2
        with torch.no_grad():
            logits = model.lm_logits(model(torch.tensor([ids[start:]])))
        ids.append(int(logits[0, -1, : model.config.vocabulary].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("context", [13, 16])
def test_greedy_is_the_definition_for_ragged_prompts_and_past_the_context(context: int) -> None:
    model = samples.model(1, vocabulary_size=50, context=context)
    model.extend(3)
    with torch.no_grad():
        model.tokens_embed.weight[50:] *= 1000  # no vocabulary tokens, or they would always win
    expected = [one_by_one(model, prompt, 60) for prompt in PROMPTS]
    assert len({token for ids in expected for token in ids}) > 3  # else it would show nothing
    for cache in (True, False):
        assert generate(model, PROMPTS, 60, GREEDY, draws(), cache=cache) == expected


@pytest.mark.parametrize("rule", [Sampling(), Sampling(0.7, top_k=5), Sampling(1.5, top_p=0.8)])
def test_sampling_is_the_seeds_with_cache_without_and_alone(rule: Sampling) -> None:
    model = samples.model(vocabulary_size=50)
    cached = generate(model, PROMPTS, 40, rule, draws())
    assert cached == generate(model, PROMPTS, 40, rule, draws(), cache=False)
    for prompt, draw, expected in zip(PROMPTS, draws(), cached, strict=True):
        assert generate(model, [prompt], 40, rule, [draw]) == [expected]
    assert cached != generate(model, PROMPTS, 40, rule, draws()[::-1])


def test_a_text_ends_at_the_stop_token_and_each_token_is_reported() -> None:
    model = samples.model(vocabulary_size=50).train()
    free = generate(model, PROMPTS, 30, GREEDY, draws())
    stop = free[1][3]
    reported: list[list[int]] = [[] for _ in PROMPTS]

    def report(row: int, token: int) -> None:
        reported[row].append(token)

    found = generate(model, PROMPTS, 30, GREEDY, draws(), {stop}, report)
    assert found == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert reported == found
    assert model.training  # as it was
    refuses("prompt 2 is empty", generate, model, [[1], []], 3, GREEDY, draws(2))


def test_restricting_keeps_the_best_and_sampling_follows_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))

    def kept(**rule: float) -> list[int]:
        restricted = restrict(logits, **rule)  # type: ignore[arg-type]
        return torch.isfinite(restricted).nonzero().flatten().tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == kept(top_p=0.6) == [1, 3]
    assert kept(top_p=1e-9) == kept(top_k=1, top_p=0.9) == [1]
    draw = torch.Generator().manual_seed(0)
    drawn = [choose(logits, Sampling(), draw) for _ in range(2000)]
    assert drawn.count(1) / 2000 == pytest.approx(0.5, abs=0.05)
    assert {choose(-logits, Sampling(low), draw) for low in (1e-9, 1e-40, 1e-45)} == {0}
    assert {choose(logits, Sampling(low), draw) for low in (1e-9, 1e-40, 1e-45)} == {1}


@pytest.mark.parametrize(("given", "message"), [
    ({"tokens": "many"}, "tokens is 'many'"), ({"tokens": 2.5}, "tokens is 2.5"),
    ({"tokens": None}, "tokens is None"), ({"top_k": float("inf")}, "top_k is inf"),
    ({"stop_at_newline": "False"}, "stop_at_newline is 'False'"), ({"n": 1}, "unknown .*'n'"),
    ({"temperature": float("nan")}, "temperature is nan"), ({"top_p": 0}, "top_p is 0"),
    *(({"length_penalty": value}, "length_penalty is .* -10 to 10") for value in (-11, 1e300)),
])  # fmt: skip
def test_a_parameter_that_cannot_be_is_named(given: dict[str, Any], message: str) -> None:
    checkpoint = Checkpoint(samples.model(), samples.vocabulary())
    refuses(message, api.generate, checkpoint, ["the cat"], **given)
    refuses("found one text", api.generate, checkpoint, "the cat")
    assert api.perplexity(checkpoint, "the \ud800 cat") > 1
    refuses("^stride is 0; expected 1 to the model's", api.perplexity, checkpoint, "the", stride=0)
    assert len(api.generate(checkpoint, ["the cat"], tokens=2.0, beams=2, length_penalty=-10)) == 1


BEAMS = [(4, 1.0, False), (4, 0.0, True), (5, 2.0, False)]


@pytest.mark.parametrize(("width", "penalty", "early"), BEAMS)
def test_beams_are_those_of_transformers(width: int, penalty: float, early: bool) -> None:
    """With a token that ends a text, and a context that no text outgrows.

    transformers' defaults; the sum of logs, ended early; long texts preferred.
    """
    transformers = pytest.importorskip("transformers")
    model = samples.model(seed=3, vocabulary_size=80, context=64, init_std=0.3)
    config = transformers.OpenAIGPTConfig(**hf_config(model.config))
    theirs = transformers.OpenAIGPTLMHeadModel(config).eval()
    theirs.load_state_dict(hf_weights(model), strict=False)
    theirs.tie_weights()
    draw = random.Random(11)
    prompts = [draw.choices(range(1, 80), k=draw.randrange(1, 20)) for _ in range(10)]
    rule = BeamSearch(width, penalty, early)
    free = beam_search(model, prompts, 14, rule)
    stop = Counter(token for ids in free for token in ids[3:]).most_common(1)[0][0]
    ours = beam_search(model, prompts, 14, rule, stop={stop})
    for prompt, found in zip(prompts, ours, strict=True):
        answer = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), eos_token_id=stop,
            pad_token_id=0, num_beams=width, length_penalty=penalty, early_stopping=early,
            do_sample=False, max_new_tokens=14,
        )  # fmt: skip
        expected = answer[0, len(prompt) :].tolist()
        assert found == (expected[: expected.index(stop) + 1] if stop in expected else expected)
    assert {ids[-1] == stop for ids in ours} >= {True, early}


def test_one_beam_is_greedy_past_the_context_too() -> None:
    model, prompts = samples.model(vocabulary_size=50), [list(prompt) for prompt in PROMPTS]
    greedy = generate(model, prompts, 50, GREEDY, draws())
    assert beam_search(model, prompts, 50, BeamSearch(1)) == greedy
    assert [len(ids) for ids in beam_search(model, prompts, 50, BeamSearch(3))] == [50] * 4
