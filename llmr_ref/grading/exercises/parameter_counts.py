"""Exercise: the parameters of a transformer, part by part, from its configuration."""

from llmr_ref import accounting
from llmr_ref.config import TransformerConfig
from llmr_ref.grading.exercise import Case, Draw, Exercise


def parameter_counts(
    d: int,
    L: int,
    V: int,
    h: int,
    n_kv: int | None = None,
    d_ff: int | None = None,
    gated: bool = False,
    bias: bool = False,
    tied: bool = True,
    n_positions: int = 0,
) -> dict[str, float]:
    config = TransformerConfig(
        vocab_size=V,
        d_model=d,
        n_layers=L,
        n_heads=h,
        n_kv_heads=n_kv,
        d_ff=d_ff or 4 * d,
        max_length=n_positions or 1,
        norm="layernorm" if bias else "rmsnorm",
        norm_bias=bias,
        activation="swiglu" if gated else "gelu",
        positions="learned" if n_positions else "sinusoidal",
        bias=bias,
        tie_embeddings=tied,
    )
    return dict(accounting.parameters(config))


exercise = Exercise(
    "parameter_counts",
    points=4,
    difficulty=2,
    minutes=25,
    reference=parameter_counts,
    chapter="how-big#parameters",
)


@exercise.property(
    "embedding, attention, feed-forward network and norms of a plain model", weight=2
)
def plain(draw: Draw):
    yield Case((4, 1, 10, 2), note="one layer of width 4")
    yield Case((8, 3, 50, 2), note="three layers")
    d = 4 * draw.integer(3, 20)
    yield Case((d, draw.integer(2, 9), draw.integer(100, 900), 4), note="other sizes")


@exercise.property("the feed-forward network may be gated and of any width", weight=1)
def feed_forward(draw: Draw):
    yield Case((8, 2, 30, 2), {"d_ff": 24}, note="d_ff=24")
    yield Case((8, 2, 30, 2), {"gated": True, "d_ff": 20}, note="gated=True")
    yield Case((6, 3, 40, 3), {"d_ff": draw.integer(10, 40), "gated": True}, note="gated=True")


@exercise.property("K and V have the heads that n_kv says", weight=1)
def grouped(draw: Draw):
    yield Case((16, 2, 30, 4), {"n_kv": 2}, note="n_kv=2 of 4 heads")
    yield Case((24, draw.integer(2, 5), 30, 6), {"n_kv": 1}, note="n_kv=1")
    yield Case((32, 2, 70, 8), {"n_kv": 2, "bias": True}, note="n_kv=2 with biases")


@exercise.property("the head is tied or not, positions are learned or not", weight=1)
def ends(draw: Draw):
    yield Case((8, 2, 30, 2), {"tied": False}, note="tied=False")
    yield Case((8, 2, 30, 2), {"n_positions": 16}, note="n_positions=16")
    settings = {"tied": False, "n_positions": draw.integer(10, 60)}
    yield Case((12, 1, 20, 3), settings, note="both")


@exercise.property("biases are counted where they are: the numbers of published models come out")
def biases(draw: Draw):
    yield Case((8, 2, 30, 2), {"bias": True}, note="bias=True")
    yield Case((8, 2, 30, 4), {"bias": True, "gated": True, "d_ff": 20}, note="gated, bias=True")
    gpt2 = {"bias": True, "n_positions": 1024}
    yield Case((768, 12, 50257, 12), gpt2, note="the shape of GPT-2")
    yield Case((draw.integer(5, 9) * 12, 24, 5000, 12), gpt2, note="another GPT")
    llama = {"d_ff": 11008, "gated": True, "tied": False}
    yield Case((4096, 32, 32000, 32), llama, note="the shape of LLaMA 2 7B")


@exercise.wrong(
    "forgets the matrix W_O",
    hint="Attention has four matrices. Which one comes after the heads are put side by side?",
    see="how-big#parameters",
)
def no_output(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "gives K and V as many heads as Q",
    hint="With grouped heads W_K and W_V are narrower. How wide are n_kv heads of d / h?",
    see="how-big#grouped-heads",
)
def full_kv(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = d
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "makes Q narrow as well",
    hint="Only keys and values share heads; every query head stays.",
    see="how-big#grouped-heads",
)
def queries_grouped(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = d * d + 3 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "forgets the norm after the last block",
    hint="A pre-norm stack has two norms a block, and one more before the head.",
    see="how-big#parameters",
)
def no_final_norm(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": 2 * L * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "counts one norm a block",
    hint="Attention has a norm before it, and so has the feed-forward network.",
    see="how-big#parameters",
)
def one_norm(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "counts the head although it is tied",
    hint="A tied head is the embedding, used a second time. How many weights does that add?",
    see="how-big#parameters",
)
def head_always(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": V * d,
    }


@exercise.wrong(
    "takes every head for tied",
    hint="An untied head is a matrix of its own.",
    see="how-big#parameters",
)
def head_never(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0,
    }


@exercise.wrong(
    "counts two matrices in a gated network",
    hint="SwiGLU has a gate beside the up-projection, and a down-projection.",
    see="how-big#parameters",
)
def two_matrices(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "takes 4 d for the width, whatever d_ff is",
    hint="d_ff is an argument; 4 d is only what it is without one.",
    see="how-big#parameters",
)
def width_4d(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "leaves the biases out",
    hint="With bias=True every product adds a vector as wide as its result, and every norm adds"
    " one.",
    see="how-big#biases-and-norms",
)
def no_biases(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "gives every norm a bias",
    hint="Here a norm has a gain of d numbers, and a bias only with bias=True.",
    see="how-big#biases-and-norms",
)
def norm_bias_always(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = 2 * d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "counts one layer",
    hint="How often is a block repeated?",
    see="how-big#parameters",
)
def one_layer(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": attention,
        "feed_forward": feed_forward,
        "norms": 3 * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "gives every head a matrix of d by d",
    hint="A head is d / h wide: all heads together make one matrix d by d.",
    see="how-big#parameters",
)
def per_head(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = h * (2 * d * d + 2 * d * d_kv)
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.wrong(
    "leaves the table of positions out",
    hint="Learned positions are a table like the embedding: one row each.",
    see="how-big#parameters",
)
def no_positions(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": 0,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.right("part by part")
def by_part(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    n_kv, d_ff = n_kv or h, d_ff or 4 * d
    d_kv = n_kv * (d // h)
    attention = 2 * d * d + 2 * d * d_kv
    matrices = 3 if gated else 2
    feed_forward = matrices * d * d_ff
    norm = d
    if bias:
        attention += 2 * d + 2 * d_kv
        feed_forward += (matrices - 1) * d_ff + d
        norm += d
    return {
        "embedding": V * d,
        "positions": n_positions * d,
        "attention": L * attention,
        "feed_forward": L * feed_forward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * d,
    }


@exercise.right("a list of matrices per layer")
def matrices(d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0):
    kv = d // h * (h if n_kv is None else n_kv)
    inner = 4 * d if d_ff is None else d_ff
    attention = [(d, d), (d, kv), (d, kv), (d, d)]
    network = [(d, inner)] * (1 + gated) + [(inner, d)]

    def size(shapes):
        return sum(i * o + (o if bias else 0) for i, o in shapes)

    return {
        "embedding": d * V,
        "positions": d * n_positions,
        "attention": size(attention) * L,
        "feed_forward": size(network) * L,
        "norms": (L + L + 1) * d * (1 + bias),
        "head": d * V * (1 - tied),
    }


@exercise.right("weights first, biases after")
def biases_after(
    d, L, V, h, n_kv=None, d_ff=None, gated=False, bias=False, tied=True, n_positions=0
):
    if n_kv is None:
        n_kv = h
    if d_ff is None:
        d_ff = 4 * d
    share = n_kv / h
    counts = dict(embedding=V * d, positions=n_positions * d)
    counts["attention"] = round(L * 2 * d * d * (1 + share))
    counts["feed_forward"] = L * d * d_ff * (3 if gated else 2)
    counts["norms"] = 2 * L * d + d
    counts["head"] = 0
    if not tied:
        counts["head"] = counts["embedding"]
    if bias:
        counts["attention"] += round(L * 2 * d * (1 + share))
        counts["feed_forward"] += L * (d + d_ff * (2 if gated else 1))
        counts["norms"] *= 2
    return counts
