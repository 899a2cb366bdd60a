"""Exercise: how well a model predicts a held-out text, in bits per byte."""

import math

import torch
from torch import Tensor, nn

from llmr_ref import training
from llmr_ref.grading.exercise import Case, Draw, Exercise


def bits_per_byte(model: nn.Module, tokens: Tensor, n_bytes: int, length: int) -> float:
    found = training.evaluate(
        model, tokens, length=length, bytes_per_token=n_bytes / (len(tokens) - 1)
    )
    assert found.bits_per_byte is not None
    return found.bits_per_byte


exercise = Exercise(
    "bits_per_byte",
    points=4,
    difficulty=3,
    minutes=25,
    reference=bits_per_byte,
    chapter="training-run#bits-per-byte",
)


@exercise.driver
def measure(bits_per_byte, table, tokens, n_bytes, length, training=True):
    """A model whose logits are the mean of the table's rows of all tokens so far."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(table.clone())
            self.graph = False

        def forward(self, ids):  # (B, T) -> (B, T, V)
            if not ids.numel():
                raise ValueError("the model got a window without tokens")
            self.graph = self.graph or torch.is_grad_enabled()
            n = torch.arange(1, ids.shape[1] + 1)
            logits = self.table[ids].cumsum(1) / n[:, None]
            return -logits if self.training else logits  # dropout would also change them

    model = Model().train(training)
    bits = bits_per_byte(model, tokens, n_bytes, length)
    return {"bits per byte": bits, "in training mode": model.training, "a graph": model.graph}


def text(draw: Draw, n: int, length: int, note: str, *, V: int = 5, training: bool = True) -> Case:
    """n tokens of 1 to 4 bytes."""
    n_bytes = (n - 1) * 2 + draw.integer(1, n)
    settings = {} if training else {"training": False}
    args = (draw.normal(V, V, scale=2.0), draw.integers(0, V - 1, n), n_bytes, length)
    return Case(args, settings, note=note, tolerance=1e-5)


@exercise.property("the losses of all tokens in bits, shared among the bytes", weight=2)
def whole(draw: Draw):
    yield text(draw, 2, 1, "one token to predict", V=3, training=False)
    yield text(draw, 5, 4, "one window", training=False)
    yield text(draw, 9, 4, "two windows", training=False)
    yield text(draw, 6 * draw.integer(3, 5) + 1, 6, "several windows", training=False)


@exercise.property("every token but the first is predicted once, in the last window too", weight=2)
def remainder(draw: Draw):
    yield text(draw, 7, 4, "a last window of 2", training=False)
    yield text(draw, 14, 5, "a last window of 3", training=False)
    yield text(draw, 10, 4, "a last window of 1", training=False)
    yield text(draw, 4, 8, "a text that is shorter than a window", training=False)


@exercise.property("the model is measured in evaluation mode and given back as it was")
def modes(draw: Draw):
    yield text(draw, 5, 4, "a model in training mode")
    yield text(draw, 11, 4, "a model in training mode")
    yield text(draw, 8, 3, "a model in evaluation mode", training=False)


@exercise.wrong(
    "measures in nats",
    hint="torch's logarithms are natural. How many nats is one bit?",
    see="training-run#bits-per-byte",
)
def nats(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / n_bytes


@exercise.wrong(
    "divides by the number of tokens",
    hint="You have bits per token. A token may be many bytes; how many there are is an argument.",
    see="training-run#bits-per-byte",
)
def per_token(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / (len(tokens) - 1)


@exercise.wrong(
    "averages the windows, the short one as much as the others",
    hint="The last window has fewer targets. Add up nats, and divide once at the end.",
    see="training-run#bits-per-byte",
)
def mean_of_windows(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    means = []
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            means.append(-log_p.gather(-1, window[1:, None]).mean().item())
    model.train(was_training)
    return sum(means) / len(means) * (len(tokens) - 1) / math.log(2) / n_bytes


@exercise.wrong(
    "leaves out what is left after the last whole window",
    hint="Take 7 tokens and windows of 4: how many of the 6 targets did you count? All bytes are in"
    " the denominator.",
    see="training-run#held-out-text",
)
def whole_windows(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - length, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "skips the first token of every window",
    hint="Your windows share no token, so the first of each is nobody's target. A window of T inputs"
    " needs T + 1 tokens.",
    see="training-run#held-out-text",
)
def borders_lost(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length + 1):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "gives the model the whole text at once",
    hint="A model that was trained on windows of T tokens has never seen position T + 1. Which"
    " argument did you not use?",
    see="training-run#held-out-text",
)
def one_window(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        log_p = model(tokens[None, :-1])[0].log_softmax(-1)
        total = -log_p.gather(-1, tokens[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "moves on by one token, so that most are counted many times",
    hint="Windows stand side by side. By how many tokens does the next one start later?",
    see="training-run#held-out-text",
)
def sliding(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(max(len(tokens) - length, 1)):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "scores the token that the model has just read",
    hint="The input and the target of a window are the same tokens, one apart. Yours are not apart.",
    see="training-a-language-model#shifted-targets",
)
def not_shifted(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[:-1, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "measures in training mode",
    hint="With dropout on, you measure a damaged model. Which call switches it off?",
    see="training-run#held-out-text",
)
def training_mode(model, tokens, n_bytes, length):
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "leaves the model in evaluation mode",
    hint="After the measurement training goes on, now without dropout. How was the model before?",
    see="training-run#held-out-text",
)
def left_in_eval(model, tokens, n_bytes, length):
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "puts every model into training mode afterwards",
    hint="A model that came in evaluation mode should leave in it. What do you have to remember at the"
    " beginning?",
    see="training-run#held-out-text",
)
def left_in_training(model, tokens, n_bytes, length):
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1])[0].log_softmax(-1)
            total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train()
    return total / math.log(2) / n_bytes


@exercise.wrong(
    "keeps the graph of every window in memory",
    hint="Nobody will call backward here, but torch does not know that. Which context tells it?",
    see="training-run#held-out-text",
)
def with_graph(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    for start in range(0, len(tokens) - 1, length):
        window = tokens[start : start + length + 1]
        log_p = model(window[None, :-1])[0].log_softmax(-1)
        total -= log_p.gather(-1, window[1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.right("one window after the other")
def one_by_one(model, tokens, n_bytes, length):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            log_p = model(window[None, :-1]).log_softmax(-1)
            total -= log_p.gather(-1, window[None, 1:, None]).sum().item()
    model.train(was_training)
    return total / math.log(2) / n_bytes


@exercise.right("the whole windows as one batch, then the rest")
def as_a_batch(model, tokens, n_bytes, length):
    mode, inputs, targets = model.training, tokens[:-1], tokens[1:]
    model.eval()
    n = len(inputs) // length * length
    whole = inputs[:n].view(-1, length), targets[:n].view(-1, length)
    total = torch.zeros((), dtype=torch.float64)
    for x, y in (whole, (inputs[None, n:], targets[None, n:])):
        if x.numel():
            with torch.no_grad():
                logits = model(x)
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
            total += losses.double()
    model.train(mode)
    return float(total / n_bytes / math.log(2))


@exercise.right("with split, the mode put back in the end")
def with_split(model, tokens, n_bytes, length):
    before = model.training
    try:
        model.train(False)
        bits = []
        with torch.inference_mode():
            for x, y in zip(tokens[:-1].split(length), tokens[1:].split(length), strict=True):
                p = torch.softmax(model(x.unsqueeze(0)).squeeze(0).double(), dim=-1)
                bits += [-math.log2(p[i, token]) for i, token in enumerate(y.tolist())]
        return sum(bits) / n_bytes
    finally:
        model.train(before)
