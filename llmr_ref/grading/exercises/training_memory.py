"""Exercise: the bytes of a training step: weights, gradients, optimizer, activations."""

import torch

from llmr_ref import accounting
from llmr_ref.config import TransformerConfig
from llmr_ref.grading.exercise import Case, Draw, Exercise


def training_memory(
    N: int,
    d: int,
    L: int,
    h: int,
    V: int,
    B: int,
    T: int,
    d_ff: int | None = None,
    width: int = 2,
    master: bool = True,
) -> dict[str, int]:
    config = TransformerConfig(
        vocab_size=V,
        d_model=d,
        n_layers=L,
        n_heads=h,
        d_ff=d_ff or 4 * d,
        activation="gelu",
        positions="sinusoidal",
    )
    dtype = {2: torch.bfloat16, 4: torch.float32}[width]
    activations = accounting.activation_memory(config, T, batch=B, dtype=dtype)
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": int(activations.total),
    }


exercise = Exercise(
    "training_memory",
    points=3,
    difficulty=3,
    minutes=25,
    reference=training_memory,
    chapter="how-big#memory",
)


@exercise.property("weights, gradients and the optimizer's state, with a copy in 32 bits", weight=2)
def state(draw: Draw):
    yield Case((1000, 4, 1, 2, 10, 1, 1), note="1000 parameters")
    yield Case((7_000_000, 8, 2, 2, 50, 1, 3), note="seven million parameters")
    n = draw.integer(10_000, 90_000)
    yield Case((n, 12, 3, 3, 40, 1, 2), note="other sizes")


@exercise.property("without the copy everything has the width of the weights", weight=1)
def no_master(draw: Draw):
    yield Case((1000, 4, 1, 2, 10, 1, 2), {"master": False}, note="master=False")
    settings = {"width": 4, "master": False}
    n = draw.integer(10_000, 90_000)
    yield Case((n, 8, 2, 2, 30, 2, 3), settings, note="width=4, master=False")
    yield Case((n, 8, 2, 2, 30, 2, 3), {"width": 4}, note="width=4")


@exercise.property("activations grow with the batch, the length and the layers", weight=2)
def activations(draw: Draw):
    yield Case((1000, 8, 1, 2, 20, 1, 5), note="five tokens")
    yield Case((1000, 8, 1, 2, 20, 3, 5), note="three sequences of five tokens")
    args = (1000, 4 * draw.integer(2, 9), draw.integer(2, 6), 4, draw.integer(50, 90))
    yield Case((*args, draw.integer(2, 5), draw.integer(6, 30)), note="other sizes")


@exercise.property("the width of the feed-forward network counts", weight=0.5)
def feed_forward(draw: Draw):
    yield Case((1000, 8, 2, 2, 20, 2, 3), {"d_ff": 20}, note="d_ff=20")
    yield Case((1000, 8, 2, 2, 20, 2, 3), {"d_ff": draw.integer(9, 31), "width": 4}, note="width=4")


@exercise.wrong(
    "counts one moment of AdamW",
    hint="AdamW keeps two running means for every weight. Of what?",
    see="how-big#memory",
)
def one_moment(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (8 if master else width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "forgets the copy of the weights in 32 bits",
    hint="Beside m and v the optimizer keeps the weights themselves in 32 bits, so that small"
    " steps are not rounded away.",
    see="how-big#memory",
)
def no_copy(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (8 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps the optimizer's state in 16 bits although there is a copy in 32",
    hint="With master=True all that the optimizer keeps is in float32, whatever the weights are.",
    see="how-big#memory",
)
def moments_in_16(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (3 * width if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps a copy in 32 bits in any case",
    hint="master=False means that there is none, and the moments are as wide as the weights.",
    see="how-big#memory",
)
def copy_always(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "forgets the gradients",
    hint="Each weight has a gradient of the same width.",
    see="how-big#memory",
)
def no_gradients(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": 0,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "takes every number for 16 bits",
    hint="The width is an argument.",
    see="how-big#memory",
)
def always_16(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    width = 2
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "counts one sequence of the batch",
    hint="All sequences of a batch are in memory together.",
    see="how-big#activations",
)
def one_sequence(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps the activations of one layer",
    hint="The backward pass begins at the last layer and needs those of all.",
    see="how-big#activations",
)
def one_layer(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = 3 * (d * width + 4)
    attention = 5 * d * width + 4 * h
    feed_forward = (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps the matrix of scores, T numbers for every query",
    hint="A fused kernel keeps one number per query and head, in float32, and computes the"
    " scores again.",
    see="how-big#activations",
)
def explicit_scores(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h * T)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps the log-probabilities in the width of the weights",
    hint="The loss is computed in float32: V numbers of 4 bytes.",
    see="how-big#activations",
)
def logits_16(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + width * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "forgets the logits",
    hint="V numbers per token: in a small model that is the largest part.",
    see="how-big#activations",
)
def no_logits(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps the hidden vectors of the feed-forward network once",
    hint="The activation function needs its input, the second matrix needs its output.",
    see="how-big#activations",
)
def shared_hidden(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "forgets the norm after the last block",
    hint="Two norms a block, and one more at the end.",
    see="how-big#activations",
)
def no_final_norm(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = 2 * L * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.wrong(
    "keeps Q, K and V and nothing else of attention",
    hint="The three projections need their input, and W_O needs the heads' outputs: five vectors"
    " of width d in all.",
    see="how-big#activations",
)
def qkv_only(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (3 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.right("four parts")
def four_parts(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = d_ff or 4 * d
    norms = (2 * L + 1) * (d * width + 4)
    attention = L * (5 * d * width + 4 * h)
    feed_forward = L * (d + 2 * d_ff) * width
    logits = d * width + 4 * V
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * (12 if master else 2 * width),
        "activations": B * T * (norms + attention + feed_forward + logits),
    }


@exercise.right("numbers per token, then bytes")
def numbers(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    d_ff = 4 * d if d_ff is None else d_ff
    in_width = (2 * L + 1) * d + L * 5 * d + L * (d + 2 * d_ff) + d
    in_float32 = (2 * L + 1) + L * h + V
    moments = 2 * (4 if master else width)
    copy = 4 if master else 0
    return dict(
        weights=width * N,
        gradients=width * N,
        optimizer=(moments + copy) * N,
        activations=(in_width * width + in_float32 * 4) * B * T,
    )


@exercise.right("layer by layer")
def layer_by_layer(N, d, L, h, V, B, T, d_ff=None, width=2, master=True):
    if not d_ff:
        d_ff = 4 * d
    per_token = 0
    for _ in range(L):
        per_token += 2 * (d * width + 4)  # norms
        per_token += (d + 3 * d + d) * width + h * 4
        per_token += (d + d_ff + d_ff) * width
    per_token += d * width + 4  # the last norm
    per_token += d * width + V * 4
    optimizer = 4 + 4 + 4 if master else width + width
    return {
        "weights": N * width,
        "gradients": N * width,
        "optimizer": N * optimizer,
        "activations": per_token * T * B,
    }
