"""Exercise: a time series: no embedding, one linear output, a squared loss, and a forecast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.rnn_states import FORBIDDEN, RULE
from llmr_ref.recurrent import TimeSeriesRegressor


def reference(series, n_steps, W_ih, W_hh, b, w, c):
    """The loss of the guesses, and the n_steps numbers that follow. Source: L5, time series."""
    model = TimeSeriesRegressor(len(b), cell="elman")
    weights = {
        "recurrent.rnn.weight_ih_l0": W_ih,
        "recurrent.rnn.weight_hh_l0": W_hh,
        "recurrent.rnn.bias_ih_l0": b,
        "recurrent.rnn.bias_hh_l0": torch.zeros_like(b),
        "output.weight": w[None],
        "output.bias": c[None],
    }
    model.load_state_dict(weights)
    with torch.no_grad():
        return model.loss(series), model.forecast(series, n_steps)


exercise = Exercise(
    "series_regression",
    points=4,
    difficulty=3,
    minutes=30,
    reference=reference,
    chapter="recurrent-networks#time-series",
    forbids=FORBIDDEN,
    rule=RULE,
)


def forecast(draw: Draw, *shape: int, n: int, H=3, note="") -> Case:
    weights = (
        draw.normal(H, 1, scale=0.8),
        draw.normal(H, H, scale=0.6),
        draw.normal(H, scale=0.5),
        draw.normal(H, scale=1.5),
        draw.normal(1)[0],
    )
    return Case((draw.normal(*shape, scale=2), n, *weights), note=note)


@exercise.property("the guess at t is of number t + 1; the loss and one step ahead", weight=2)
def one_step(draw: Draw):
    yield forecast(draw, 2, n=1, H=1, note="two numbers and one step")
    yield forecast(draw, 4, n=1, H=2, note="four numbers and one step")
    yield forecast(draw, draw.integer(5, 7), n=1)


@exercise.property("a forecast goes on from its own guesses")
def many_steps(draw: Draw):
    yield forecast(draw, 2, n=2, H=1, note="two numbers and two steps")
    yield forecast(draw, 4, n=draw.integer(3, 5))


@exercise.property("leading dimensions are free, and the loss is a mean over all guesses")
def leading(draw: Draw):
    yield forecast(draw, 3, 4, n=2, note="a batch")
    yield forecast(draw, 2, 2, 5, n=3, note="two leading dimensions")


@exercise.wrong(
    "compares a guess with the number that was just read",
    hint="To repeat the input is no prediction. Of which number is the guess at t?",
    see="recurrent-networks#time-series",
)
def not_shifted(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses, dim=-1)
    loss = (known - series).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "compares with the number after the next",
    hint="The guess at t is of number t + 1. How far do your slices lie apart?",
    see="recurrent-networks#time-series",
)
def shifted_twice(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-2], dim=-1)
    loss = (known - series[..., 2:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "compares with the number before",
    hint="The guess is of what follows.",
    see="recurrent-networks#time-series",
)
def wrong_way(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[1:], dim=-1)
    loss = (known - series[..., :-1]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "lets the last guess be compared with the first number",
    hint="After the last number nothing is known. What has no target takes no part in the loss.",
    see="recurrent-networks#time-series",
)
def round_in_a_circle(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses, dim=-1)
    loss = (known - series.roll(-1, -1)).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "adds up the squared errors",
    hint="The loss is a mean, so that long series do not weigh more.",
    see="recurrent-networks#time-series",
)
def summed(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().sum()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "takes the absolute error",
    hint="The squared error is asked for.",
    see="recurrent-networks#time-series",
)
def absolute(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).abs().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "halves the loss",
    hint="The mean of the squares, without a factor.",
    see="recurrent-networks#time-series",
)
def halved(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean() / 2
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "feeds the last known number again",
    hint="The first guess follows the last number, the second follows the first guess. "
    "What goes into the next step?",
    see="recurrent-networks#time-series",
)
def last_number_again(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(series[..., -1], h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "forecasts every step from a fresh state",
    hint="The state knows the series. It goes on with each guess.",
    see="recurrent-networks#time-series",
)
def state_forgotten(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, _ = step(guess, torch.zeros_like(h))
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "does not update the state while it forecasts",
    hint="A guess is read like a number: it changes the state.",
    see="recurrent-networks#time-series",
)
def state_frozen(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, _ = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "leaves out the first number of the forecast",
    hint="The guess after the last known number is the first of the forecast already.",
    see="recurrent-networks#time-series",
)
def first_dropped(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = []
    for _ in range(n_steps):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "forecasts one number too many",
    hint="The first one comes from reading the series. How many are left?",
    see="recurrent-networks#time-series",
)
def one_too_many(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "repeats the first guess",
    hint="Each number of the forecast follows from the one before it.",
    see="recurrent-networks#time-series",
)
def constant(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "squeezes the output through a tanh",
    hint="Numbers of a series may be of any size. The output is linear.",
    see="recurrent-networks#time-series",
)
def bounded(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return torch.tanh(h @ w + c), h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.wrong(
    "reads every number alone",
    hint="What was read before is in the state. Does it go into the next step?",
    see="neural-language-models#a-recurrent-state",
)
def no_state(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], torch.zeros_like(h))
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.right("one function for a step")
def by_steps(series, n_steps, W_ih, W_hh, b, w, c):
    h = torch.zeros(*series.shape[:-1], len(b))

    def step(number, h):
        h = torch.tanh(number[..., None] @ W_ih.T + h @ W_hh.T + b)
        return h @ w + c, h

    guesses = []
    for t in range(series.shape[-1]):
        guess, h = step(series[..., t], h)
        guesses.append(guess)
    known = torch.stack(guesses[:-1], dim=-1)
    loss = (known - series[..., 1:]).square().mean()
    following = [guess]
    for _ in range(n_steps - 1):
        guess, h = step(guess, h)
        following.append(guess)
    return loss, torch.stack(following, dim=-1)


@exercise.right("one loop over the known and the guessed")
def one_loop(series, n_steps, W_ih, W_hh, b, w, c):
    T = series.shape[-1]
    h = series.new_zeros(*series.shape[:-1], b.numel())
    guesses: list[Tensor] = []
    for t in range(T + n_steps - 1):
        number = series[..., t] if t < T else guesses[-1]
        h = (F.linear(number.unsqueeze(-1), W_ih, b) + F.linear(h, W_hh)).tanh()
        guesses.append((h * w).sum(-1) + c)
    out = torch.stack(guesses, dim=-1)
    return F.mse_loss(out[..., : T - 1], series[..., 1:]), out[..., T - 1 :]


@exercise.right("the whole series again for every step")
def grown_series(series, n_steps, W_ih, W_hh, b, w, c):
    def read(numbers):
        h, out = torch.zeros(*numbers.shape[:-1], len(b)), []
        for x in numbers.split(1, dim=-1):
            h = torch.tanh(x * W_ih[:, 0] + torch.einsum("ij,...j->...i", W_hh, h) + b)
            out.append(torch.einsum("...i,i->...", h, w) + c)
        return torch.stack(out, dim=-1)

    errors = read(series[..., :-1]) - series[..., 1:]
    grown = series
    for _ in range(n_steps):
        grown = torch.cat((grown, read(grown)[..., -1:]), dim=-1)
    return (errors**2).sum() / errors.numel(), grown[..., series.shape[-1] :]


exercise.equivalent(
    "series.shape[:-1] -> series.shape[:0]",
    "series.shape[:-1] -> series.shape[:-2]",
    because="a state of zeros takes its leading dimensions from the first number",
)


exercise.equivalent(
    "known - series[..., 1:] -> series[..., 1:] - known",
    because="the square follows",
)
