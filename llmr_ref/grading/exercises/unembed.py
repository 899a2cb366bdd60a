"""Exercise: the head of a language model: final norm, then scores for every token."""

import torch
import torch.nn.functional as F

from llmr_ref import layers
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(x, gain, E, U=None):
    """Logits of the next token. Source: L2 "The language modeling head", "Weight tying"."""
    return layers.rms_norm(x, gain) @ (E if U is None else U).T


exercise = Exercise(
    "unembed",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="the-language-model#unembedding",
)


@exercise.driver
def from_tokens(unembed, tokens, gain, E, U=None):
    """Tokens in, logits out: the table is read on the way in, and by a tied head on the way out."""
    return unembed(E[tokens] * 2 + 0.5, gain, E, U)


def head(draw: Draw, *shape: int, V=5, d=4, tied=True, gradients=False, note="") -> Case:
    tokens = draw.integers(0, V - 1, *shape)
    gain = draw.normal(d, scale=0.3) + 1.4
    matrices = {} if tied else {"U": draw.normal(V, d)}
    return Case((tokens, gain, draw.normal(V, d)), matrices, gradients=gradients, note=note)


@exercise.property("tied: the rows of the embedding are the directions of the tokens", weight=2)
def tied(draw: Draw):
    yield head(draw, 1, V=3, d=2, note="one position")
    yield head(draw, 4, V=4, d=4, note="as many tokens as numbers in a vector")
    yield head(draw, 2, draw.integer(3, 5), note="a batch")


@exercise.property("with an unembedding of its own the table plays no part")
def untied(draw: Draw):
    yield head(draw, 1, V=3, d=2, tied=False, note="one position and an unembedding")
    yield head(draw, 2, 3, V=6, tied=False, note="a batch and an unembedding")


@exercise.property("a tied table gets gradients from both of its uses")
def gradients(draw: Draw):
    yield head(draw, 2, 3, gradients=True, note="a tied table")
    yield head(draw, 2, 3, tied=False, gradients=True, note="two tables")


@exercise.wrong(
    "leaves out the final norm",
    hint="In a pre-norm model the stream has grown with every block. What brings it back "
    "to size before the head?",
    see="the-language-model#the-final-norm",
)
def no_norm(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x
    return z @ matrix.T


@exercise.wrong(
    "leaves out the gain of the final norm",
    hint="The final norm has a gain like all others.",
    see="the-language-model#the-final-norm",
)
def norm_without_gain(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
    return z @ matrix.T


@exercise.wrong(
    "normalises the logits",
    hint="The norm belongs to the stream, before the unembedding. Logits may be of any size.",
    see="the-language-model#the-final-norm",
)
def norm_last(x, gain, E, U=None):
    matrix = E if U is None else U
    z = (x * gain) @ matrix.T
    return z * torch.rsqrt((z * z).mean(-1, keepdim=True) + 1e-5)


@exercise.wrong(
    "applies the gain before the norm",
    hint="The gain would be normalised away again in part. Which comes first?",
    see="the-language-model#the-final-norm",
)
def gain_first(x, gain, E, U=None):
    matrix = E if U is None else U
    x = x * gain
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
    return z @ matrix.T


@exercise.wrong(
    "uses a layer norm",
    hint="The exercise says RMSNorm: nothing is subtracted.",
    see="the-language-model#the-final-norm",
)
def centred(x, gain, E, U=None):
    matrix = E if U is None else U
    x = x - x.mean(-1, keepdim=True)
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.wrong(
    "returns probabilities",
    hint="Logits are scores before the softmax; the loss and the sampler take the "
    "softmax themselves.",
    see="the-language-model#unembedding",
)
def probabilities(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return torch.softmax(z @ matrix.T, dim=-1)


@exercise.wrong(
    "returns log-probabilities",
    hint="One normalisation too many: scores come out of the head as they are.",
    see="the-language-model#unembedding",
)
def log_probabilities(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return torch.log_softmax(z @ matrix.T, dim=-1)


@exercise.wrong(
    "uses the table even when an unembedding is given",
    hint="Tying is a choice. What does U stand for when it is there?",
    see="the-language-model#weight-tying",
)
def always_tied(x, gain, E, U=None):
    matrix = E
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.wrong(
    "adds the table to the unembedding",
    hint="One matrix, one product. U takes the place of E.",
    see="the-language-model#weight-tying",
)
def adds_both(x, gain, E, U=None):
    matrix = E if U is None else E + U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.wrong(
    "copies the table instead of sharing it",
    hint="A tied table learns from both ends. What happens to the gradient in `detach` "
    "or in a copy of the data?",
    see="the-language-model#weight-tying",
)
def detached(x, gain, E, U=None):
    matrix = E.detach() if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.wrong(
    "predicts at the last position only",
    hint="In training every position predicts its next token. Return scores for all of them.",
    see="the-language-model#unembedding",
)
def last_position(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z[..., -1:, :] @ matrix.T


@exercise.wrong(
    "divides by the root of d",
    hint="The root of d belongs to attention scores. The final norm has taken care of the size.",
    see="the-language-model#unembedding",
)
def scaled(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T / x.shape[-1] ** 0.5


@exercise.wrong(
    "normalises the rows of the table",
    hint="A long row makes a token more likely; the model learns such things. Leave it.",
    see="the-language-model#unembedding",
)
def cosine(x, gain, E, U=None):
    matrix = F.normalize(E if U is None else U, dim=-1)
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.wrong(
    "normalises over positions",
    hint="Every position is normalised by itself, along its d numbers.",
    see="the-language-model#the-final-norm",
)
def over_positions(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(0, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.right("the formula")
def by_formula(x, gain, E, U=None):
    matrix = E if U is None else U
    z = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain
    return z @ matrix.T


@exercise.right("torch's norm and a linear layer")
def with_torch(x, gain, E, U=None):
    z = F.rms_norm(x, gain.shape, gain, 1e-5)
    return F.linear(z, U if U is not None else E)


@exercise.right("the gain folded into the matrix")
def gain_in_matrix(x, gain, E, U=None):
    if U is None:
        U = E
    size = (x.pow(2).sum(dim=-1) / len(gain) + 1e-5).sqrt()
    return torch.einsum("...d,vd->...v", x, U * gain) / size[..., None]
