"""Beam search, with the rules of transformers' `generate(num_beams=...)`, so that results can be
compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.generation.decoding import (
    DecodingState,
    LanguageModel,
    evaluating,
    refuse_empty,
)


@dataclass(frozen=True)
class BeamSearch:
    """`width` beams.

    A finished text's score is its sum of log-probabilities / (its new ids) ** `length_penalty`.

    `early_stopping`: end as soon as `width` texts are finished. Else (the default, as in
    transformers) end when the best running beam, scored at its present length, is no better than
    the worst of `width` finished ones.
    """

    width: int
    length_penalty: float = 1.0
    early_stopping: bool = False


@dataclass(frozen=True)
class _Beam:
    score: float
    ids: tuple[int, ...]


def beam_search(
    model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int, search: BeamSearch,
    stop: Collection[int] = (),
) -> list[list[int]]:
    """The best text after each prompt: up to `new_tokens` ids, or up to and with an id of `stop`.

    UserError for an empty prompt.
    """
    refuse_empty(prompts)
    with evaluating(model):
        return [
            _search(model, list(prompt), new_tokens, search, frozenset(stop)) for prompt in prompts
        ]


def _search(
    model: LanguageModel, prompt: list[int], new_tokens: int, search: BeamSearch,
    stop: frozenset[int],
) -> list[int]:
    running, finished = [_Beam(0.0, ())], list[_Beam]()
    state = DecodingState(model, [prompt], new_tokens)
    for length in range(1, new_tokens + 1):
        logs = F.log_softmax(state.logits().float(), dim=-1)  # (n, V)
        candidates = _best(logs, running, max(2, 1 + len(stop)) * search.width)
        going, parents = list[_Beam](), list[int]()
        for rank, (parent, beam) in enumerate(candidates):
            if beam.ids[-1] in stop or length == new_tokens:
                if rank < search.width:  # what ends further down is no better than beams that go on
                    finished.append(_Beam(beam.score / length**search.length_penalty, beam.ids))
            elif len(going) < search.width:
                going.append(beam)
                parents.append(parent)
        finished = sorted(finished, key=lambda beam: -beam.score)[: search.width]
        if not going or _settled(going[0], finished, length, search):
            break
        state.select(parents)
        for text, beam in zip(state.texts, going, strict=True):
            text.append(beam.ids[-1])
        running = going
    return list(finished[0].ids) if finished else []


def _best(logs: Tensor, running: Sequence[_Beam], count: int) -> list[tuple[int, _Beam]]:
    """The `count` best continuations of all beams, best first, each with the beam it comes from."""
    scores = (
        logs + torch.tensor([beam.score for beam in running], device=logs.device)[:, None]
    )  # (n, V)
    values, places = scores.flatten().topk(min(count, scores.numel()))
    V = logs.shape[1]
    pairs = zip(values.tolist(), places.tolist(), strict=True)
    return [
        (place // V, _Beam(value, (*running[place // V].ids, place % V))) for value, place in pairs
    ]


def _settled(best: _Beam, finished: Sequence[_Beam], length: int, search: BeamSearch) -> bool:
    if len(finished) < search.width:
        return False
    return search.early_stopping or best.score / length**search.length_penalty <= finished[-1].score
