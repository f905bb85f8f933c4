"""A whole model at work: rows of text in, rows of results out, in plain Python (served by
pipeline/tracking/served_model.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.generation import BeamSearch, Sampling, beam_search, generate
from gpt1.rng import generator
from gpt1.tasks.io import Example
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import NEWLINE_TOKEN
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint

PARAMETERS: dict[str, int | float | bool] = {
    "tokens": 60, "temperature": 0.8, "top_k": 40, "top_p": 1.0, "beams": 0, "length_penalty": 1.0,
    "stop_at_newline": False, "seed": 0,
}  # fmt: skip
"""What a request may set, with defaults; `beams` 0 samples (temperature 0: greedy)."""

Row = Mapping[str, Any]


class Predictor:
    """Generates for rows with a `prompt`; a fine-tuned model predicts for rows with `text`,
    `text_b`, `choices`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.encoder = Tokenizer(checkpoint.vocabulary)

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """For the checkpoint in `folder`."""
        return cls(load_checkpoint(folder))

    def answer(
        self, rows: Sequence[Row], parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """One result a row, in their order. UserError says what a request lacks."""
        if not rows:
            return []
        if all(row.get("prompt") is not None for row in rows):
            texts = self.generate(
                [str(row["prompt"]) for row in rows], **{**PARAMETERS, **_known(parameters or {})}
            )
            return [{"text": text} for text in texts]
        return self.predict([_example(number, row) for number, row in enumerate(rows, start=1)])

    def generate(
        self, prompts: Sequence[str], tokens: int, temperature: float, top_k: int, top_p: float,
        beams: int, length_penalty: float, stop_at_newline: bool, seed: int, on_token: Any = None,
    ) -> list[str]:  # fmt: skip
        """The text that follows each prompt. An empty prompt stands for the beginning of a line."""
        newline = self.checkpoint.vocabulary.ids[NEWLINE_TOKEN]
        ids = [self.encoder.encode(prompt) or [newline] for prompt in prompts]
        stop = {newline} if stop_at_newline else set()
        check_sampling(tokens, temperature, top_k, top_p, beams, length_penalty)
        model = self.checkpoint.model
        if beams:
            found = beam_search(model, ids, tokens, BeamSearch(beams, length_penalty), stop)
        else:
            draws = [generator("generate", seed, number) for number in range(len(ids))]
            found = generate(
                model, ids, tokens, Sampling(temperature, top_k, top_p), draws, stop, on_token
            )
        return [self.encoder.decode(new) for new in found]

    def predict(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Label, value and probabilities of each example."""
        tuned = self.checkpoint.tuned
        if tuned is None:
            raise UserError(
                "this model is not fine-tuned: send rows with `prompt`, or use a model with a task"
                " head"
            )
        found = tuned.predict(examples, self.encoder.encode, self.encoder.decode)
        return [
            {
                "id": example.id, "label": one.name, "value": one.value,
                "probabilities": list(one.probabilities),
            }
            for example, one in zip(examples, found, strict=True)
        ]


def check_sampling(
    tokens: int, temperature: float, top_k: int, top_p: float, beams: int, length_penalty: float
) -> None:
    """UserError for settings that no generation can have."""
    for name, value, good in (
        ("tokens", tokens, tokens >= 1),
        ("temperature", temperature, 0 <= temperature < float("inf")), ("top_k", top_k, top_k >= 0),
        ("top_p", top_p, 0 < top_p <= 1), ("beams", beams, beams >= 0),
        ("length_penalty", length_penalty, -10 <= length_penalty <= 10),
    ):  # fmt: skip
        if not good:
            wanted = {
                "tokens": "at least 1", "top_p": "more than 0, at most 1",
                "length_penalty": "-10 to 10",
            }.get(name, "0 or more")
            raise UserError(f"{name} is {value}, expected {wanted}")


def _known(parameters: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise UserError(f"unknown parameters {unknown}; known: {', '.join(PARAMETERS)}")
    for name, value in parameters.items():
        kind = type(PARAMETERS[name])
        try:
            same = bool(kind(value) == value)
        except (TypeError, ValueError, OverflowError):
            same = False
        if not same:  # a text, part of a token, no number
            raise UserError(f"{name} is {value!r}, expected a value such as {PARAMETERS[name]}")
    return {name: type(PARAMETERS[name])(value) for name, value in parameters.items()}


def _example(number: int, row: Row) -> Example:
    texts = tuple(str(row[name]) for name in ("text", "text_b") if row.get(name) is not None)
    if not texts:
        raise UserError(f"row {number}: has neither `prompt` nor `text`; found {sorted(row)}")
    choices = row.get("choices")
    return Example(str(number), texts, tuple(map(str, choices)) if choices is not None else ())
