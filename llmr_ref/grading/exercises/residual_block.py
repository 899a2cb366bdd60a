"""Exercise: where norm, sublayer and residual meet: pre-norm, post-norm, parallel."""

import torch
from torch import nn

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(x, attention, ffn, norm1, norm2, order="pre"):
    """One block of the residual stream. Source: L2 "Transformer block"; L4 table, "Block type"."""
    if order == "pre":
        x = x + attention(norm1(x))
        return x + ffn(norm2(x))
    if order == "post":
        x = norm1(x + attention(x))
        return norm2(x + ffn(x))
    normed = norm1(x)
    return x + attention(normed) + ffn(normed)


exercise = Exercise(
    "residual_block",
    points=3,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="block#pre-norm-and-post-norm",
)


@exercise.driver
def one_block(residual_block, x, A, W, gains, order):
    """Small layers: attention is a running mean, the network a ReLU, each with its own matrix."""
    steps = torch.arange(1, x.shape[-2] + 1)[:, None]

    def norm(gain):
        return lambda x: gain * x / (x.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()

    layers = (
        lambda x: x.cumsum(-2) / steps @ A,
        lambda x: (x @ W).relu() - 0.5,
        norm(gains[0]),
        norm(gains[1]),
    )
    return residual_block(x, *layers, **({"order": order} if order else {}))


def block(draw: Draw, *shape: int, order: str = "", note="") -> Case:
    d = shape[-1]
    gains = draw.normal(2, d, scale=0.3) + torch.tensor([[1.5], [0.6]])
    args = (draw.normal(*shape, scale=2), draw.normal(d, d), draw.normal(d, d), gains, order)
    return Case(args, note=note)


@exercise.property("pre-norm: what is added was normalised before its layer", weight=2)
def pre(draw: Draw):
    yield block(draw, 1, 2, order="pre", note="one position")
    yield block(draw, 3, 2, order="pre", note="three positions")
    yield block(draw, 2, draw.integer(3, 5), 4, order="pre")
    yield block(draw, 2, 3, 4, note="no order given")


@exercise.property("post-norm: the sum is normalised after its layer")
def post(draw: Draw):
    yield block(draw, 1, 2, order="post", note="one position")
    yield block(draw, 2, draw.integer(3, 5), 4, order="post")


@exercise.property("parallel: both layers read the same norm")
def parallel(draw: Draw):
    yield block(draw, 1, 2, order="parallel", note="one position")
    yield block(draw, 2, draw.integer(3, 5), 4, order="parallel")


@exercise.wrong(
    "replaces the stream instead of adding to it",
    hint="A layer writes an addition into the stream. What happens to what was there?",
    see="block#the-residual-stream",
)
def no_residual(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = attention(norm1(x))
        return ffn(norm2(y))
    if order == "post":
        y = norm1(attention(x))
        return norm2(ffn(y))
    z = norm1(x)
    return attention(z) + ffn(z)


@exercise.wrong(
    "forgets the second residual",
    hint="Both layers add to the stream, the feed-forward network as well.",
    see="block#the-residual-stream",
)
def no_second_residual(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "adds to the normalised vector",
    hint="In a pre-norm block the norm stands on the branch. The stream itself goes past "
    "it untouched.",
    see="block#pre-norm-and-post-norm",
)
def adds_normed(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        z = norm1(x)
        y = z + attention(z)
        z = norm2(y)
        return z + ffn(z)
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "lets the network read what attention read",
    hint="In a pre-norm block the layers work one after the other. What does the second norm see?",
    see="block#pre-norm-and-post-norm",
)
def from_the_start(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(x))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "uses the first norm twice",
    hint="Each layer has a norm with its own gain.",
    see="block#pre-norm-and-post-norm",
)
def one_norm(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm1(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm1(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "exchanges the two norms",
    hint="norm1 belongs to attention, norm2 to the network.",
    see="block#pre-norm-and-post-norm",
)
def norms_swapped(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm2(x))
        return y + ffn(norm1(y))
    if order == "post":
        y = norm2(x + attention(x))
        return norm1(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "leaves out the norm of the network",
    hint="The stream has grown after attention. What keeps the input of the second layer in size?",
    see="block#pre-norm-and-post-norm",
)
def no_second_norm(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(y)
    if order == "post":
        y = norm1(x + attention(x))
        return y + ffn(y)
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "normalises after the sum by default",
    hint="This is the order of 2017. Most models since put the norm before the layer; "
    "compare the two equations.",
    see="block#pre-norm-and-post-norm",
)
def post_for_pre(x, attention, ffn, norm1, norm2, order="pre"):
    if order in ("pre", "post"):
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    if order == "-":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "ignores the order",
    hint="The order is an argument. What do the other two equations say?",
    see="block#pre-norm-and-post-norm",
)
def pre_always(x, attention, ffn, norm1, norm2, order="pre"):
    y = x + attention(norm1(x))
    return y + ffn(norm2(y))


@exercise.wrong(
    "normalises the layer's output before it is added",
    hint="Post-norm means: after the sum. Yours leaves the stream without any norm.",
    see="block#pre-norm-and-post-norm",
)
def norm_of_layer(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = x + norm1(attention(x))
        return y + norm2(ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "normalises twice in a post-norm block",
    hint="With post-norm the layers read the stream as it is; it comes out of a norm already.",
    see="block#pre-norm-and-post-norm",
)
def post_reads_normed(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(norm1(x)))
        return norm2(y + ffn(norm2(y)))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.wrong(
    "lets the network wait for attention in a parallel block",
    hint="Parallel means that both read the same input, so both can be computed at once.",
    see="block#parallel-blocks",
)
def sequential(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z + attention(z))


@exercise.wrong(
    "uses both norms in a parallel block",
    hint="The parallel block normalises once, for both.",
    see="block#parallel-blocks",
)
def two_norms(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(norm2(x))


@exercise.wrong(
    "puts the network behind attention in a parallel block",
    hint="Side by side, not one inside the other.",
    see="block#parallel-blocks",
)
def nested(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + ffn(attention(z))


@exercise.wrong(
    "writes into the stream of the caller",
    hint="`+=` on x changes the tensor outside of the function.",
    see="block#the-residual-stream",
)
def in_place(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        x += attention(norm1(x))
        x += ffn(norm2(x))
        return x
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.right("the equations")
def by_equation(x, attention, ffn, norm1, norm2, order="pre"):
    if order == "pre":
        y = x + attention(norm1(x))
        return y + ffn(norm2(y))
    if order == "post":
        y = norm1(x + attention(x))
        return norm2(y + ffn(y))
    z = norm1(x)
    return x + attention(z) + ffn(z)


@exercise.right("one function for a sublayer")
def with_sublayers(x, attention, ffn, norm1, norm2, order="pre"):
    def sublayer(x, layer, norm):
        return norm(x + layer(x)) if order == "post" else x + layer(norm(x))

    if order == "parallel":
        return sublayer(x, lambda z: attention(z) + ffn(z), norm1)
    return sublayer(sublayer(x, attention, norm1), ffn, norm2)


@exercise.right("a loop over the two layers")
def with_a_loop(x, attention, ffn, norm1, norm2, order="pre"):
    stream = x
    if order == "parallel":
        additions = [layer(norm1(stream)) for layer in (attention, ffn)]
        return sum(additions, start=stream)
    for layer, norm in ((attention, norm1), (ffn, norm2)):
        before, after = (norm, nn.Identity()) if order == "pre" else (nn.Identity(), norm)
        stream = after(torch.add(stream, layer(before(stream))))
    return stream
