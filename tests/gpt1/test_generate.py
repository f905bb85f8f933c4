"""Generation: the cache changes nothing, batches change nothing, beams are transformers' beams, and past the context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from gpt1.errors import UserError
from gpt1.generate import BeamSearch, Sampling, beam_search, generate_batch
from gpt1.generate.reader import Reader, window_start
from gpt1.model.gpt import GPT
from gpt1.weights.hf import hf_config, hf_weights
from tests.gpt1 import weight_samples as samples

GREEDY = Sampling(temperature=0)
PROMPTS = ([1], [5, 9, 3, 2, 7], [4, 4], [8, 1, 30, 22, 11, 6, 2, 15, 40])


def draws(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def one_by_one(model: GPT, prompt: Sequence[int], new: int) -> list[int]:
    """Greedy, straight from the definition: the whole window read anew for each token."""
    ids = list(prompt)
    for _ in range(new):
        window = ids[window_start(len(ids), model.config.context) :]
        with torch.no_grad():
            logits = model.lm_logits(model(torch.tensor([window])))[0, -1, : model.config.vocabulary]
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("new", [6, 60])
@pytest.mark.parametrize("cache", [True, False])
def test_greedy_is_the_definition_for_ragged_prompts_and_past_the_context(new: int, cache: bool) -> None:
    model = samples.model(vocabulary_size=50)
    model.extend(3)
    with torch.no_grad():
        model.tokens_embed.weight[50:] *= 1000  # rows that are no vocabulary tokens would win every time
    found = generate_batch(model, PROMPTS, new, GREEDY, draws(4), cache=cache)
    assert found == [one_by_one(model, prompt, new) for prompt in PROMPTS]
    assert len({token for ids in found for token in ids}) > 3, "the model repeats itself: the test shows nothing"


@pytest.mark.parametrize("rule", [Sampling(), Sampling(0.7, top_k=5), Sampling(1.5, top_p=0.8)])
def test_sampling_with_cache_without_cache_and_alone(rule: Sampling) -> None:
    model = samples.model(vocabulary_size=50)
    cached = generate_batch(model, PROMPTS, 40, rule, draws(4))
    assert cached == generate_batch(model, PROMPTS, 40, rule, draws(4), cache=False)
    alone = [generate_batch(model, [prompt], 40, rule, [draws(4)[n]])[0] for n, prompt in enumerate(PROMPTS)]
    assert cached == alone


def test_logits_of_the_cache_are_those_of_the_model() -> None:
    model = samples.model(vocabulary_size=50)
    readers = [Reader(model, PROMPTS, 12, cache) for cache in (True, False)]
    for step in range(12):
        found, expected = (reader.logits() for reader in readers)
        assert float((found - expected).abs().max()) < 1e-4
        for reader in readers:
            for row, text in enumerate(reader.texts):
                text.append((7 * step + row) % 50)


def test_a_text_ends_at_the_stop_token_and_the_others_go_on() -> None:
    model = samples.model(vocabulary_size=50)
    free = generate_batch(model, PROMPTS, 30, GREEDY, draws(4))
    stop = free[1][3]
    found = generate_batch(model, PROMPTS, 30, GREEDY, draws(4), stop={stop})
    expected = [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert found == expected
    assert len({len(ids) for ids in found}) > 1


def test_tokens_are_told_as_they_are_chosen_and_the_mode_is_kept() -> None:
    model = samples.model(vocabulary_size=50).train()
    told: list[tuple[int, int]] = []
    found = generate_batch(model, PROMPTS[:2], 5, GREEDY, draws(2), on_token=lambda row, token: told.append((row, token)))
    assert [token for row, token in told if row == 1] == found[1]
    assert model.training


@pytest.mark.parametrize("context", [1, 2, 5, 16])
def test_what_is_forgotten(context: int) -> None:
    for length in range(1, 6 * context):
        kept = length - window_start(length, context)
        assert min(length, context // 2 + 1) <= kept <= context


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="prompt 2 is empty"):
        generate_batch(samples.model(), [[1], []], 3, GREEDY, draws(2))


@pytest.fixture(scope="module")
def both() -> tuple[GPT, torch.nn.Module]:
    """The same weights here and in transformers, with a context that no text outgrows."""
    transformers = pytest.importorskip("transformers")
    model = samples.model(seed=3, vocabulary_size=80, context=64, init_std=0.3)
    theirs = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**hf_config(model.config))).eval()
    theirs.load_state_dict(hf_weights(model), strict=False)
    theirs.tie_weights()
    return model, theirs


BEAMS = [
    pytest.param(4, 1.0, False, id="transformers' defaults"),
    pytest.param(4, 0.0, True, id="sum of logs, ended early"),
    pytest.param(2, 1.0, True, id="two", marks=pytest.mark.slow),
    pytest.param(5, 2.0, False, id="long texts preferred", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("width", "penalty", "early"), BEAMS)
def test_beams_are_those_of_transformers(both: tuple[GPT, torch.nn.Module], width: int, penalty: float, early: bool) -> None:
    """20 prompts, with a token that ends a text, length penalty and early stopping as stated in the parameters."""
    model, theirs = both
    draw = torch.Generator().manual_seed(11)
    prompts = [torch.randint(1, 80, (int(n),), generator=draw).tolist() for n in torch.randint(1, 20, (20,), generator=draw)]
    free = beam_search(model, prompts, 14, BeamSearch(width, penalty, early))
    stop = Counter(token for ids in free for token in ids[3:]).most_common(1)[0][0]
    ours = beam_search(model, prompts, 14, BeamSearch(width, penalty, early), stop={stop})
    settings = {"num_beams": width, "length_penalty": penalty, "early_stopping": early, "do_sample": False, "max_new_tokens": 14}
    for prompt, found in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        answer = theirs.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=stop, pad_token_id=0, **settings)  # type: ignore[operator]
        expected = answer[0, len(prompt) :].tolist()
        assert found == (expected[: expected.index(stop) + 1] if stop in expected else expected)
    assert any(ids[-1] == stop for ids in ours)
    assert early or any(ids[-1] != stop for ids in ours)


def test_one_beam_is_greedy_and_more_beams_find_better_texts() -> None:
    model = samples.model(vocabulary_size=50, context=64)
    prompts = [list(prompt) for prompt in PROMPTS]
    assert beam_search(model, prompts, 20, BeamSearch(1)) == generate_batch(model, prompts, 20, GREEDY, draws(4))

    def score(prompt: list[int], ids: list[int]) -> float:
        with torch.no_grad():
            logs = torch.log_softmax(model.vocabulary_logits(model(torch.tensor([prompt + ids]))), -1)[0]
        return sum(float(logs[len(prompt) - 1 + n, token]) for n, token in enumerate(ids))

    greedy, wide = (beam_search(model, prompts, 20, BeamSearch(width)) for width in (1, 8))
    pairs = [(score(prompt, a), score(prompt, b)) for prompt, a, b in zip(prompts, greedy, wide, strict=True)]
    assert sum(better > worse for worse, better in pairs) >= 2


def test_beams_past_the_context() -> None:
    found = beam_search(samples.model(vocabulary_size=50), [[1, 2, 3]], 50, BeamSearch(3))
    assert len(found[0]) == 50
