"""Exercise: the FLOPs of training on one token, part by part."""

from llmr_ref import accounting
from llmr_ref.config import TransformerConfig
from llmr_ref.grading.exercise import Case, Draw, Exercise


def flops_per_token(
    d: int,
    L: int,
    V: int,
    h: int,
    T: int,
    n_kv: int | None = None,
    d_ff: int | None = None,
    gated: bool = False,
) -> dict[str, float]:
    config = TransformerConfig(
        vocab_size=V,
        d_model=d,
        n_layers=L,
        n_heads=h,
        n_kv_heads=n_kv,
        d_ff=d_ff or 4 * d,
        activation="swiglu" if gated else "gelu",
        positions="sinusoidal",
    )
    return {part: flops // T for part, flops in accounting.training_flops(config, T)}


exercise = Exercise(
    "flops_per_token",
    points=3,
    difficulty=3,
    minutes=25,
    reference=flops_per_token,
    chapter="how-big#flops",
)


@exercise.property(
    "a product of matrices costs two FLOPs a weight and token, backward twice that", weight=2
)
def products(draw: Draw):
    yield Case((4, 1, 10, 2, 1), note="one layer of width 4, one token")
    yield Case((8, 3, 50, 2, 4), note="three layers")
    d = 4 * draw.integer(3, 20)
    args = (d, draw.integer(2, 9), draw.integer(100, 900), 4, draw.integer(5, 20))
    yield Case(args, note="other sizes")


@exercise.property("scores and weighted values grow with the length", weight=1.5)
def lengths(draw: Draw):
    yield Case((8, 2, 30, 4, 100), note="T=100")
    yield Case((16, 3, 30, 2, 1024), note="T=1024")
    yield Case((12, 1, 30, 3, draw.integer(200, 900)), note="a long sequence")


@exercise.property("grouped heads save projections, not scores", weight=1)
def grouped(draw: Draw):
    yield Case((16, 2, 30, 4, 10), {"n_kv": 1}, note="n_kv=1")
    yield Case((24, 2, 30, 6, draw.integer(5, 50)), {"n_kv": 2}, note="n_kv=2 of 6 heads")


@exercise.property("the feed-forward network may be gated and of any width", weight=1)
def feed_forward(draw: Draw):
    yield Case((8, 2, 30, 2, 5), {"d_ff": 24}, note="d_ff=24")
    yield Case((8, 2, 30, 2, 5), {"gated": True, "d_ff": draw.integer(10, 40)}, note="gated=True")
    yield Case((768, 12, 50257, 12, 1024), note="the shape of GPT-2")


@exercise.wrong(
    "counts the forward pass alone",
    hint="Training also computes gradients: for each product of the forward pass, how many more"
    " are there?",
    see="how-big#flops",
)
def forward_only(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: flops for part, flops in forward.items()}


@exercise.wrong(
    "takes the backward pass to cost as much as the forward pass",
    hint="Each product has two gradients, with respect to its input and to its weights. Each is"
    " a product of the same size.",
    see="how-big#flops",
)
def backward_as_forward(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 2 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts multiplications and no additions",
    hint="A row times a column is a multiplication and an addition for every entry. How many"
    " FLOPs is that?",
    see="how-big#flops",
)
def no_additions(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": L * (2 * d * d + 2 * d * d_kv),
        "attention": L * 2 * T * d,
        "feed_forward": L * (3 if gated else 2) * d * d_ff,
        "logits": d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts the scores and forgets the weighted values",
    hint="Attention has two products that grow with the length: Q with K, and then?",
    see="how-big#scores",
)
def scores_only(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts the attention of the whole sequence",
    hint="All parts are per token. One query meets T keys, not T squared.",
    see="how-big#scores",
)
def whole_sequence(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts only the keys that a causal mask leaves",
    hint="A dense product computes the masked scores too; the exercise counts every query times"
    " every key.",
    see="how-big#scores",
)
def halved(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * T * (d + 0) * 2 // 2 + L * d * 2 * 1,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "lets grouped heads shrink the scores as well",
    hint="Every query head still meets every key, though keys are shared. Which width do all"
    " query heads have together?",
    see="how-big#grouped-heads",
)
def scores_grouped(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d_kv,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts K and V at full width",
    hint="With grouped heads W_K and W_V are narrower.",
    see="how-big#grouped-heads",
)
def kv_full(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = d
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts the scores h times",
    hint="The heads share the width d. All of them together do the work of one head of width d.",
    see="how-big#scores",
)
def per_head(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d * h,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "leaves the logits out",
    hint="The head is a product with V columns, and in a small model it is a large part.",
    see="how-big#flops",
)
def no_logits(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 0,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts the embedding as a product",
    hint="To look a row up multiplies nothing. Only the head is a product with the vocabulary.",
    see="how-big#flops",
)
def embedding_too(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 4 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "forgets the product with W_O",
    hint="Four matrices belong to attention; which did you leave out?",
    see="how-big#flops",
)
def no_output(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "counts two products in a gated network",
    hint="SwiGLU has a gate as well.",
    see="how-big#flops",
)
def two_matrices(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.wrong(
    "takes 4 d for the width, whatever d_ff is",
    hint="d_ff is an argument.",
    see="how-big#flops",
)
def width_4d(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.right("forward, then three times that")
def three_times(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    forward = {
        "projections": 2 * L * (2 * d * d + 2 * d * d_kv),
        "attention": 2 * L * 2 * T * d,
        "feed_forward": 2 * L * (3 if gated else 2) * d * d_ff,
        "logits": 2 * d * V,
    }
    return {part: 3 * flops for part, flops in forward.items()}


@exercise.right("six FLOPs a weight")
def six_a_weight(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    if n_kv is None:
        n_kv = h
    if d_ff is None:
        d_ff = 4 * d
    return {
        "projections": 6 * L * (d * d + d * d + 2 * d * (d * n_kv // h)),
        "attention": 12 * L * T * d,
        "feed_forward": 6 * L * d * d_ff * (2 + gated),
        "logits": 6 * V * d,
    }


@exercise.right("a function for one product")
def one_product(d, L, V, h, T, n_kv=None, d_ff=None, gated=False):
    def product(n_in, n_out):
        forward = 2 * n_in * n_out
        return forward + 2 * forward

    width = d // h
    kv = width * (n_kv if n_kv else h)
    ff = d_ff if d_ff else 4 * d
    up = 2 if gated else 1
    return {
        "projections": L * (product(d, d) + 2 * product(d, kv) + product(d, d)),
        "attention": L * h * (product(width, T) + product(T, width)),
        "feed_forward": L * (up * product(d, ff) + product(ff, d)),
        "logits": product(d, V),
    }
