"""Cache growth in Python: bad arguments, the numbers of the chapter, the RNN beside the transformer."""

import re
from typing import Any

import pytest
import traitlets

from llmr_ref.accounting import kv_cache_bytes, parameters
from llmr_ref.config import TransformerConfig, preset
from llmr_ref.recurrent import RecurrentLanguageModel
from llmr_ref.widgets import CacheGrowth
from llmr_ref.widgets.cache_growth import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_linear_in_the_heads_of_keys(name: str) -> None:
    shape = CacheGrowth().shapes[name]
    config = preset(name)
    counted = shape["without_kv"] + shape["per_kv_head"] * config.kv_heads
    assert counted == parameters(config).total


def test_the_words_are_those_of_the_chapter() -> None:
    assert "keeps 1.05 GB for 1 text." in CacheGrowth().description()
    gpt3 = CacheGrowth("gpt3-175b", length=2048, batch=32)
    assert "keeps 309 GB for 32 texts" in gpt3.description()
    assert kv_cache_bytes(CacheGrowth(window=16, length=99).config(), 99) == 16 * 524_288


def test_the_rnn_of_the_picture_is_a_plain_one_of_the_same_width_and_depth() -> None:
    """State, FLOPs of a token and weights as the module's `recurrent` counts them."""
    L, d, V = 3, 16, 50
    model = RecurrentLanguageModel(V, d, d, cell="elman", n_layers=L)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert matrices - model.embedding.weight.numel() == 2 * L * d * d + d * V


def test_a_configuration_of_ones_own_and_another_device() -> None:
    config = TransformerConfig(vocab_size=50, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2)
    widget = CacheGrowth(config, device="h100", length=10)
    assert (widget.model, widget.n_kv_heads) == ("own", 2)
    assert widget.device["name"] == "H100 SXM"
    assert "your model" in widget.description()
    widget.n_kv_heads = 4
    assert widget.config().kv_heads == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt5"}, "there is no model 'gpt5'"),
        ({"device": "abacus"}, "there is no device 'abacus'"),
        ({"n_kv_heads": 5}, "must divide the 32 heads, got 5"),
        ({"length": 0}, "length must lie in 1..1000000, got 0"),
        ({"batch": 0}, "batch must lie in"),
        ({"window": -1}, "window must lie in"),
        ({"depth": 1}, "there is no depth"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        CacheGrowth(**arguments)
