"""The model calculator in Python: shapes, bad arguments, the numbers of the lectures."""

import re
from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.accounting import parameters, training_memory
from llmr_ref.config import TransformerConfig, preset
from llmr_ref.widgets import ModelCalculator
from llmr_ref.widgets.model_calculator import LECTURE_MODELS


@pytest.mark.parametrize("name", LECTURE_MODELS)
def test_a_model_of_the_lectures_has_the_references_parameters(name: str) -> None:
    assert dict(ModelCalculator(name).parameters()) == dict(parameters(preset(name)))


def test_the_first_picture_is_gpt_two_as_its_released_weights() -> None:
    assert ModelCalculator().parameters().total == 124_439_808
    assert "124,439,808 parameters" in ModelCalculator().description()


def test_the_memory_of_a_step_follows_the_precision() -> None:
    config = preset("llama2-7b")
    assert ModelCalculator("llama2-7b", precision="float32").memory() == training_memory(
        config, config.max_length
    )
    mixed = ModelCalculator("llama2-7b", batch=3).memory()
    assert mixed == training_memory(
        config, config.max_length, batch=3, dtype=torch.bfloat16, master_weights=True
    )


def test_a_configuration_of_ones_own_can_be_counted() -> None:
    config = TransformerConfig(vocab_size=100, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2)
    assert ModelCalculator(config).parameters().total == parameters(config).total
    assert ModelCalculator(config, n_layers=4).parameters().total > parameters(config).total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt5"}, "there is no preset 'gpt5'"),
        ({"depth": 3}, "there is no depth"),
        ({"n_layers": 0}, "n_layers must lie in 1..1000, got 0"),
        ({"n_kv_heads": 5}, "n_kv_heads must divide n_heads = 12, got 5"),
        ({"n_heads": 16}, "n_kv_heads must divide n_heads = 16, got 12"),
        ({"norm": "batch"}, "norm"),
        ({"vocab_size": 1.5}, "vocab_size"),
        (
            {"model": TransformerConfig(9, 8, 1, 1, block="post")},
            "got block 'post'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        ModelCalculator(**arguments)


def test_a_bad_value_is_forgotten() -> None:
    widget = ModelCalculator()
    with pytest.raises(ValueError, match="must divide"):
        widget.n_kv_heads = 7
    assert widget.n_kv_heads == 12
