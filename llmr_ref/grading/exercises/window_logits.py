"""Exercise: a feed-forward language model over a fixed window of embeddings."""

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.recurrent import FeedForwardLanguageModel


def reference(tokens, E, W1, b1, W2, b2):
    """Logits from the last few tokens. Source: L1 "Neural language models"; Bengio et al. 2003."""
    (V, d), hidden = E.shape, len(b1)
    model = FeedForwardLanguageModel(V, W1.shape[1] // d, d, hidden, direct=False)
    weights = {
        "embedding.weight": E,
        "hidden.weight": W1,
        "hidden.bias": b1,
        "output.weight": W2,
        "output.bias": b2,
    }
    return torch.func.functional_call(model, weights, (tokens,))


exercise = Exercise(
    "window_logits",
    points=3,
    difficulty=3,
    minutes=25,
    reference=reference,
    chapter="neural-language-models#a-fixed-window",
)


def model(draw: Draw, *shape: int, window=3, V=6, d=3, hidden=4, gradients=False, note="") -> Case:
    weights = (
        draw.normal(V, d),
        draw.normal(hidden, window * d, scale=0.6),
        draw.normal(hidden),
        draw.normal(V, hidden),
        draw.normal(V),
    )
    return Case((draw.integers(0, V - 1, *shape), *weights), note=note, gradients=gradients)


@exercise.property(
    "embeddings of the window side by side, oldest first, then a hidden layer", weight=2
)
def windows(draw: Draw):
    yield model(draw, 3, window=2, V=3, d=1, hidden=1, note="three tokens and a window of two")
    yield model(draw, 5, window=3, note="five tokens and a window of three")
    yield model(draw, draw.integer(6, 8), window=3)


@exercise.property("the size of the window follows from the weights")
def sizes(draw: Draw):
    yield model(draw, 4, window=1, note="a window of one")
    yield model(draw, 6, window=draw.integer(4, 5), note="a longer window")
    yield model(draw, 2, window=4, note="a text that is shorter than the window")


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield model(draw, 2, 4, note="a batch")
    yield model(draw, 2, 3, 4, window=2, note="two leading dimensions")


@exercise.property("gradients reach table and weights", weight=0.5)
def gradients(draw: Draw):
    yield model(draw, 2, 4, gradients=True)


@exercise.wrong(
    "puts the newest token first",
    hint="The columns of W1 belong to places in the window, the oldest first.",
    see="neural-language-models#a-fixed-window",
)
def newest_first(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flip(-2).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "mixes the numbers of the embeddings",
    hint="`unfold` puts the window into the last dimension. Each embedding should stay "
    "in one piece when you flatten.",
    see="neural-language-models#a-fixed-window",
)
def interleaved(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "pads at the end",
    hint="The last position then sees nothing of the text, and the first sees what "
    "follows it. On which side is there nothing yet?",
    see="neural-language-models#a-fixed-window",
)
def from_behind(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, 0, window - 1))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "takes a window around the position",
    hint="A language model must not read the tokens that it predicts. The window ends at "
    "the current one.",
    see="neural-language-models#a-fixed-window",
)
def centred(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, (window - 1) - (window - 1) // 2, (window - 1) // 2))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "leaves out the current token",
    hint="The scores at t are those of token t + 1, so token t is known.",
    see="neural-language-models#a-fixed-window",
)
def without_current(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window, 0))[..., :-1, :]
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "pads with token 0",
    hint="Token 0 is a word like others. Before the beginning there are zeros, not its embedding.",
    see="neural-language-models#a-fixed-window",
)
def token_zero(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[F.pad(tokens, (window - 1, 0))]
    padded = embedded
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "repeats the first token before the beginning",
    hint="Before the beginning there are zeros.",
    see="neural-language-models#a-fixed-window",
)
def first_repeated(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = torch.cat([embedded[..., :1, :]] * (window - 1) + [embedded], dim=-2)
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "fills the beginning with the end of the text",
    hint="`roll` brings the last tokens to the front. A text does not go round in a circle.",
    see="neural-language-models#a-fixed-window",
)
def wraps(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    x = torch.cat([embedded.roll(k, -2) for k in reversed(range(window))], dim=-1)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "takes a window of three",
    hint="How many embeddings fit into a row of W1?",
    see="neural-language-models#a-fixed-window",
)
def three(tokens, E, W1, b1, W2, b2):
    window = 3
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "averages the embeddings",
    hint="An average forgets which token came first. Side by side, every place has "
    "weights of its own.",
    see="neural-language-models#a-fixed-window",
)
def averaged(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).mean(-1).repeat_interleave(window, -1)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "leaves out the tanh",
    hint="Two linear layers in a row are one.",
    see="neural-language-models#a-fixed-window",
)
def no_tanh(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = x @ W1.T + b1
    return h @ W2.T + b2


@exercise.wrong(
    "uses a ReLU",
    hint="The model of 2003 has a tanh. A ReLU has no bound and no negative values.",
    see="neural-language-models#a-fixed-window",
)
def relu(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.relu(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.wrong(
    "leaves out the bias of the hidden layer",
    hint="Both layers have a bias.",
    see="neural-language-models#a-fixed-window",
)
def no_hidden_bias(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T)
    return h @ W2.T + b2


@exercise.wrong(
    "returns probabilities",
    hint="Scores are asked for; the loss takes the softmax.",
    see="neural-language-models#a-fixed-window",
)
def probabilities(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return (h @ W2.T + b2).softmax(-1)


@exercise.right("windows by unfold")
def by_unfolding(tokens, E, W1, b1, W2, b2):
    window = W1.shape[1] // E.shape[1]
    embedded = E[tokens]
    padded = F.pad(embedded, (0, 0, window - 1, 0))
    x = padded.unfold(-2, window, 1).transpose(-2, -1).flatten(-2)
    h = torch.tanh(x @ W1.T + b1)
    return h @ W2.T + b2


@exercise.right("one shifted copy of the embeddings for each place")
def by_shifting(tokens, E, W1, b1, W2, b2):
    x = F.embedding(tokens, E)
    T, d = x.shape[-2:]
    hidden = b1
    for place, W in enumerate(reversed(W1.split(d, dim=1))):
        shifted = torch.cat((x.new_zeros(*x.shape[:-2], place, d), x), dim=-2)[..., :T, :]
        hidden = hidden + shifted @ W.T
    return F.linear(hidden.tanh(), W2, b2)


@exercise.right("position by position")
def by_position(tokens, E, W1, b1, W2, b2):
    n, d = W1.shape[1] // E.shape[1], E.shape[1]
    zeros = E.new_zeros(*tokens.shape[:-1], d)
    logits = []
    for t in range(tokens.shape[-1]):
        parts = [E[tokens[..., s]] if s >= 0 else zeros for s in range(t - n + 1, t + 1)]
        logits.append(torch.tanh(torch.cat(parts, -1) @ W1.T + b1) @ W2.T + b2)
    return torch.stack(logits, dim=-2)
