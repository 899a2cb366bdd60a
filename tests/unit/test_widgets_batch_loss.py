"""The batch loss in Python: targets, padding, bad arguments, a student's function."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import traitlets

from llmr_ref.widgets import BatchLoss
from llmr_ref.widgets.batch_loss import (
    L2_SENTENCE,
    make_batch,
    mean_loss,
    model,
    training_words,
    vocabulary,
)


def test_targets_are_the_inputs_one_place_further_on() -> None:
    batch = BatchLoss([L2_SENTENCE]).batch()
    words = [vocabulary()[i] for i in batch.inputs[0]]
    targets = [vocabulary()[i] for i in batch.targets[0]]
    assert words == L2_SENTENCE.split()[:-1]
    assert targets == L2_SENTENCE.split()[1:]


def test_padding_counts_nowhere_but_in_the_two_mistakes() -> None:
    widget = BatchLoss()
    batch = widget.batch()
    assert batch.counted.sum().item() == 16
    assert (batch.targets == -100).sum().item() == 5
    expected = F.cross_entropy(batch.logits.flatten(0, 1), batch.targets.flatten()).item()
    assert widget.mean() == pytest.approx(expected)
    widget.padding = "averaged"
    assert widget.mean() == pytest.approx(expected * 16 / 21)
    widget.padding = "target"
    assert (widget.batch().targets != -100).all()
    widget.padding = "ignored"
    widget.off = [[0, 6]]
    assert widget.batch().counted.sum().item() == 15
    assert widget.mean() < expected  # "fish" was the dearest but one


def test_the_model_is_counted_and_context_helps() -> None:
    assert len(vocabulary()) == 32
    assert training_words()[:8] == tuple(L2_SENTENCE.split())
    h = vocabulary().index("saw")
    assert model(2).probabilities([h]).sum().item() == pytest.approx(1)
    losses = [BatchLoss(order=order).mean() for order in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]


def test_nothing_that_counts_has_no_mean() -> None:
    batch = make_batch([[1, 2]], 2, "ignored", [[0, 0]])
    assert math.isnan(mean_loss(batch, "ignored"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "texts must number 1 to 4, got 0"),
        ({"texts": ["the cat"] * 5}, "got 5"),
        ({"texts": ["the zebra"]}, "'zebra' is not among the words"),
        ({"texts": ["the cat", ""]}, "1 to 12 words, got ''"),
        ({"texts": ["the " * 13]}, "1 to 12 words"),
        ({"texts": ["the"]}, "nothing to predict"),
        ({"order": 4}, "order must lie in 1..3, got 4"),
        ({"padding": "left"}, "padding"),
        ({"off": [[1]]}, r"places \[sequence, position\], got \[1\]"),
        ({"off": [[0, -1]]}, "got"),
        ({"loss_function": 3}, "loss_function must be callable, got int"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=message):
        BatchLoss(**arguments)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_a_students_loss_is_asked_for_every_state(capsys: pytest.CaptureFixture[str]) -> None:
    def talking(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        print("my loss")
        return cross_entropy(logits, targets)

    widget = BatchLoss(loss_function=talking)
    assert widget.student["loss"] == pytest.approx(widget.mean(), rel=1e-5)
    widget.texts = ["the cats wait"]
    assert widget.student["state"]["texts"] == ["the cats wait"]
    assert widget.student["loss"] == pytest.approx(widget.mean(), rel=1e-5)
    widget.off = [[0, 0], [0, 1]]
    assert widget.student["loss"] is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda z, y: 1 / 0, "ZeroDivisionError"),
        (lambda z, y: z, "must return one number, got the shape"),
        (lambda z, y: math.inf, "it returned inf"),
        (lambda z: 0.0, "TypeError"),
        (lambda z, y: None, "Error"),
    ],
)
def test_a_failing_loss_is_contained(answer: Any, words: str) -> None:
    assert words in BatchLoss(loss_function=answer).student["error"]


def test_words_and_picture() -> None:
    widget = BatchLoss()
    assert "16 of 21 targets count" in widget.description()
    assert f"{widget.mean():.3f} nats" in widget.description()
    assert "the → fish" in widget.picture()
