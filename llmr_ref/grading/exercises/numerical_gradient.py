"""Exercise: a gradient by central differences, to check every other one with."""

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE


def reference(f, x: Tensor, h: float = 1e-4) -> Tensor:
    x = x.double()
    steps = h * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    slopes = [(f(x + step) - f(x - step)) / (2 * h) for step in steps]
    return torch.stack(slopes).reshape(x.shape) if slopes else torch.zeros_like(x)


exercise = Exercise(
    "numerical_gradient",
    points=3,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="backprop#checking-a-gradient",
    forbids=AUTOGRAD,
    rule=RULE,
)


@exercise.driver
def differentiate(numerical_gradient, function, x, **settings):
    functions = {
        "cubes": lambda x: (x**3).sum(),
        "product": lambda x: x.prod(),
        "weighted squares": lambda x: (
            torch.arange(1.0, x.numel() + 1).reshape(x.shape) * x**2
        ).sum(),
        "rectified": lambda x: x.clamp(min=0).sum(),
    }
    return numerical_gradient(functions[function], x, **settings)


# Rounding of f in float64 over 2h stays below 1e-9; the forward difference is off by 1e-4.
CLOSE = 1e-7


def wide(draw: Draw, *shape: int) -> Tensor:
    """float64 numbers away from 0, so that no curvature vanishes."""
    return draw.normal(*shape, dtype=torch.float64).abs() + 0.5


@exercise.property("every entry is the central difference of f in that direction", weight=2)
def vectors(draw: Draw):
    yield Case(("cubes", wide(draw, 1)), note="a single number", tolerance=CLOSE)
    yield Case(("cubes", wide(draw, 3)), tolerance=CLOSE)
    yield Case(("weighted squares", wide(draw, draw.integer(4, 6))), tolerance=CLOSE)
    yield Case(("product", wide(draw, 4)), note="a product", tolerance=CLOSE)


@exercise.property("the step is an argument", weight=1)
def steps(draw: Draw):
    h = draw.integer(2, 9) / 10
    yield Case(("cubes", wide(draw, 3)), {"h": 0.5}, note="h=0.5", tolerance=CLOSE)
    yield Case(("cubes", wide(draw, 4)), {"h": h}, note="a large step", tolerance=CLOSE)
    small = torch.tensor([draw.integer(50, 80) / 100], dtype=torch.float64)
    yield Case(("cubes", small), note="the step that is the default", tolerance=1e-9)
    corner = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    yield Case(("rectified", corner), {"h": 0.25}, note="a corner", tolerance=CLOSE)


@exercise.property("the result has the shape of x", weight=1)
def shapes(draw: Draw):
    yield Case(("cubes", wide(draw, 2, 3)), note="a matrix", tolerance=CLOSE)
    yield Case(("weighted squares", wide(draw, 2, 3, 2)), note="three dimensions", tolerance=CLOSE)
    yield Case(
        ("cubes", wide(draw, 1).squeeze()), note="a scalar without dimensions", tolerance=CLOSE
    )


@exercise.property("the differences are taken in float64, whatever the dtype of x")
def dtypes(draw: Draw):
    yield Case(("cubes", wide(draw, 3).float()), note="a float32 vector", tolerance=1e-6)
    yield Case(("weighted squares", wide(draw, 5).float()), note="float32", tolerance=1e-6)


@exercise.wrong(
    "steps forward only",
    hint="The error of a one-sided difference shrinks with h, that of a two-sided one with its "
    "square. From where to where do you measure the slope?",
    see="backprop#checking-a-gradient",
)
def forward_difference(f, x, h=1e-4):
    x = x.double()
    base, out = f(x), torch.zeros_like(x)
    for i in range(x.numel()):
        moved = x.clone()
        moved.view(-1)[i] += h
        out.view(-1)[i] = (f(moved) - base) / h
    return out


@exercise.wrong(
    "divides a difference over 2h by h",
    hint="How far apart are the two points at which you call f?",
    see="backprop#checking-a-gradient",
)
def divides_by_h(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.view(-1)[i] = (f(up) - f(down)) / h
    return out


@exercise.wrong(
    "divides by h and then multiplies by 2",
    hint="In Python `a / 2 * h` is `(a / 2) * h`. Which part of your line is the denominator?",
    see="backprop#checking-a-gradient",
)
def precedence(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.view(-1)[i] = (f(up) - f(down)) / 2 * h
    return out


@exercise.wrong(
    "measures downwards, so that every sign is turned",
    hint="A slope is rise over run. Which of your two values belongs to the larger x?",
    see="backprop#checking-a-gradient",
)
def turned(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.view(-1)[i] = (f(down) - f(up)) / (2 * h)
    return out


@exercise.wrong(
    "moves all entries at once",
    hint="Every entry of your result is the same number, the slope in the direction (1, 1, ..., 1). "
    "A partial derivative moves one entry and holds the others still.",
    see="backprop#checking-a-gradient",
)
def all_at_once(f, x, h=1e-4):
    x = x.double()
    return torch.ones_like(x) * (f(x + h) - f(x - h)) / (2 * h)


@exercise.wrong(
    "leaves an entry moved when it turns to the next",
    hint="The first entry is right, the later ones less and less. Where are the earlier entries "
    "while you measure this one?",
    see="backprop#checking-a-gradient",
)
def stays_moved(f, x, h=1e-4):
    x = x.double().clone()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        x.view(-1)[i] += h
        up = f(x)
        x.view(-1)[i] -= 2 * h
        out.view(-1)[i] = (up - f(x)) / (2 * h)
    return out


@exercise.wrong(
    "moves whole rows of a matrix",
    hint="`x[i]` is one entry of a vector, but a whole row of a matrix. How do you reach every "
    "entry of a tensor of any shape?",
    see="backprop#checking-a-gradient",
)
def whole_rows(f, x, h=1e-4):
    x = x.double()
    if x.dim() == 0:
        return (f(x + h) - f(x - h)) / (2 * h)
    out = torch.zeros_like(x)
    for i in range(len(x)):
        up, down = x.clone(), x.clone()
        up[i] += h
        down[i] -= h
        out[i] = (f(up) - f(down)) / (2 * h)
    return out


@exercise.wrong(
    "returns a flat vector",
    hint="The numbers are right and in the right order. A gradient is laid out like what it belongs "
    "to.",
    see="backprop#checking-a-gradient",
)
def flat_result(f, x, h=1e-4):
    x = x.double()
    out = []
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.append((f(up) - f(down)) / (2 * h))
    return torch.stack(out)


@exercise.wrong(
    "computes in the dtype of x",
    hint="float32 keeps seven digits, and the difference of two nearly equal values keeps the last "
    "few of them. In which dtype should f be called?",
    see="backprop#checking-a-gradient",
)
def own_dtype(f, x, h=1e-4):
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.view(-1)[i] = (f(up) - f(down)) / (2 * h)
    return out


@exercise.wrong(
    "uses a step of its own",
    hint="The result does not change with h. Where in your code does the argument appear?",
    see="backprop#checking-a-gradient",
)
def own_step(f, x, h=1e-4):
    x, step = x.double(), 1e-5
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        out.view(-1)[i] = (f(up) - f(down)) / (2 * step)
    return out


@exercise.wrong(
    "differentiates instead of measuring",
    hint="The limit of small steps is what this function is to check, so it must not come from the "
    "same place. Call f, take differences, divide.",
    see="backprop#checking-a-gradient",
)
def derivative(f, x, h=1e-4):
    x = x.double().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


@exercise.wrong(
    "writes into its input",
    hint="On a float64 tensor `.double()` makes no copy. Stepping up, down and back also leaves "
    "rounding behind. Compare x before and after the call.",
    see="backprop#checking-a-gradient",
)
def in_place(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        x.view(-1)[i] += h
        up = f(x)
        x.view(-1)[i] -= 2 * h
        down = f(x)
        x.view(-1)[i] += h
        out.view(-1)[i] = (up - down) / (2 * h)
    return out


@exercise.right("two copies for every entry")
def two_copies(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += h
        down.view(-1)[i] -= h
        out.view(-1)[i] = (f(up) - f(down)) / (2 * h)
    return out


@exercise.right("one copy, every entry put back as it was")
def put_back(f, x, h=1e-4):
    x = x.to(torch.float64, copy=True).contiguous()
    out = torch.empty_like(x)
    entries, slopes = x.view(-1), out.view(-1)
    for i, old in enumerate(entries.tolist()):
        entries[i] = old + h
        above = f(x).item()
        entries[i] = old - h
        slopes[i] = (above - f(x).item()) / h / 2
        entries[i] = old
    return out


@exercise.right("the mean of a forward and a backward difference")
def mean_of_two(f, x, h=1e-4):
    x = x.double()
    out = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros(x.numel(), dtype=torch.float64)
        e[i] = h
        e = e.reshape(x.shape)
        out.view(-1)[i] = ((f(x + e) - f(x)) / h + (f(x) - f(x - e)) / h) / 2
    return out


exercise.equivalent(
    "def numerical_gradient(f, x, h=0.0001): ... -> def numerical_gradient(f, x, h=-0.0001): ...",
    because="a central difference is the same for h and -h",
)
