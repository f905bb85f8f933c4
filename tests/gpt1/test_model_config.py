"""The arithmetic of SPEC section 1, and refusal of impossible shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig


def test_paper_shape_has_the_paper_s_number_of_parameters() -> None:
    config = ModelConfig()
    assert config.block_parameters() == 7_087_872
    assert config.parameters() == 116_534_784
    assert dataclasses.replace(config, special_tokens=3).parameters() == 116_534_784 + 3 * 768


def test_flops_of_a_token_at_the_paper_s_shape() -> None:
    assert ModelConfig().flops_per_token() == pytest.approx(756e6, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"width": 100, "heads": 3}, "not divisible"),
        ({"dropout": 1.0}, "dropout"),
        ({"vocabulary": 0}, "vocabulary"),
        ({"embedding_dropout": "rows"}, "embedding_dropout"),
        ({"layers": -1}, "layers"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ModelConfig(**wrong)


def test_dictionary_form_round_trips_and_refuses_unknown_keys() -> None:
    config = ModelConfig(vocabulary=10, context=4, width=8, layers=1, heads=2, special_tokens=3)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="n_layer"):
        ModelConfig.from_dict({**config.to_dict(), "n_layer": 2})
