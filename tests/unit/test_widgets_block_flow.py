"""The block flow in Python: the reference's numbers, bad arguments, a student's block."""

from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.widgets import BlockFlow
from llmr_ref.widgets.block_flow import (
    DEPTH,
    STAGES,
    draw_numbers,
    flow,
    make_block,
    rms,
    stream_sizes,
)


def residual_block(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        x = x + attention(norm1(x))
        return x + ffn(norm2(x))
    if order == "post":
        x = norm1(x + attention(x))
        return norm2(x + ffn(x))
    normed = norm1(x)
    return x + attention(normed) + ffn(normed)


@pytest.mark.parametrize("order", STAGES)
def test_the_stages_add_up(order: str) -> None:
    x, blocks = draw_numbers(3)
    stages = flow(x, make_block(blocks[0], order, "layernorm", "gelu"))
    assert list(stages) == STAGES[order]
    if order == "parallel":
        torch.testing.assert_close(stages["sum2"], x + stages["attn"] + stages["ffn"])
    else:
        torch.testing.assert_close(stages["sum1"], x + stages["attn"])
        carried = stages["sum1" if order == "pre" else "ln1"]
        torch.testing.assert_close(stages["sum2"], carried + stages["ffn"])
    for name in ("ln1", "ln2"):
        if name in stages:
            torch.testing.assert_close(stages[name].mean(-1), torch.zeros(4).double())
    per_head = stages["weights"].view(4, 2, 4)
    torch.testing.assert_close(per_head.sum(-1), torch.ones(4, 2).double())
    assert per_head[0, :, 1:].count_nonzero() == 0


def test_sizes_of_the_stream() -> None:
    """Post-norm brings the stream back each time; pre-norm and parallel let it grow (L2)."""
    for seed in range(6):
        kinds = ("layernorm", "relu")
        post = stream_sizes(seed, 1.0, "post", *kinds)
        assert post[1:] == pytest.approx([1.0] * DEPTH, abs=1e-3)
        for order in ("pre", "parallel"):
            sizes = stream_sizes(seed, 1.0, order, *kinds)
            assert sizes[-1] > 2 * sizes[0]
    loud = stream_sizes(3, 100.0, "pre", "layernorm", "relu")
    assert loud[-1] / loud[0] < 1.1


def test_the_shown_block_begins_where_the_one_before_ended() -> None:
    widget = BlockFlow(shown=12)
    sizes = stream_sizes(3, 1.0, "pre", "layernorm", "relu")
    assert rms(widget.numbers()["x"]) == pytest.approx(sizes[11])
    assert rms(widget.numbers()["sum2"]) == pytest.approx(sizes[12])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "sandwich"}, "order"),
        ({"norm": "batchnorm"}, "norm"),
        ({"activation": "tanh"}, "activation"),
        ({"stage": "logits"}, "stage"),
        ({"batch": 0}, "batch must lie in 1..4096, got 0"),
        ({"length": 0}, "length must lie in"),
        ({"d_model": 0}, "d_model must lie in"),
        ({"d_model": 100, "n_heads": 12}, "n_heads must divide d_model = 100, got 12"),
        ({"scale": 0.0}, "scale must lie in"),
        ({"scale": float("nan")}, "scale must lie in"),
        ({"shown": 13}, "shown must lie in 1..12, got 13"),
        ({"seed": -1}, "seed must lie in"),
        ({"block_function": 3}, "block_function must be callable, got int"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=message):
        BlockFlow(**arguments)


@pytest.mark.parametrize("order", STAGES)
def test_a_students_block_is_compared(order: str) -> None:
    widget = BlockFlow(order, block_function=residual_block)
    assert widget.student["error"] == ""
    assert widget.student["difference"] < 1e-12
    widget.shown = 5
    assert widget.student["state"]["shown"] == 5
    assert widget.student["difference"] < 1e-12


def test_a_wrong_a_failing_and_a_talking_block(capsys: pytest.CaptureFixture[str]) -> None:
    def without_norm(x, attention, ffn, norm1, norm2, order):
        print("my block")
        if order == "post":
            raise RuntimeError("not written yet")
        x = x + attention(x)
        return x + ffn(norm2(x))

    widget = BlockFlow(block_function=without_norm)
    assert widget.student["difference"] > 0.1
    assert capsys.readouterr().out == ""
    widget.order = "post"
    assert widget.student["error"] == "RuntimeError: not written yet"
    for answer, words in (
        (lambda x, *_, order: x[0], "must return the shape of x"),
        (lambda x, *_, order: x / 0, "not finite"),
        (lambda x, *_: x, "TypeError"),
    ):
        assert words in BlockFlow(block_function=answer).student["error"]


def test_the_students_block_cannot_change_the_input() -> None:
    def in_place(x, attention, ffn, norm1, norm2, order):
        x += attention(norm1(x))
        x += ffn(norm2(x))
        return x

    assert BlockFlow(block_function=in_place).student["difference"] < 1e-12


def test_words_and_picture() -> None:
    widget = BlockFlow("post", batch=2, length=7)
    assert "(2, 7, 768)" in widget.description()
    assert "behind 12 blocks it is 1.00" in widget.description()
    assert "dog" in widget.picture()
    assert not any("memory" in line for line, _ in widget.code)
