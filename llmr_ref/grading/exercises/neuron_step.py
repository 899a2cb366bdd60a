"""Exercise: one step of gradient descent on the lecture's neuron, derivative by derivative."""

import torch
from torch import Tensor

from llmr_ref.backprop import Value, add
from llmr_ref.grading.exercise import Case, Draw, Exercise

# What the whole assignment builds by hand; the other exercises import it from here.
AUTOGRAD = (
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.Tensor.backward",
    *(f"torch.func.{name}" for name in (
        "grad", "grad_and_value", "vjp", "jvp", "jacrev", "jacfwd",
    )),
    *(f"torch.autograd.functional.{name}" for name in ("vjp", "jvp", "jacobian")),
)  # fmt: skip
RULE = "Work the derivatives out on paper; torch's automatic differentiation is what you rebuild."


def reference(
    w: Tensor, b: Tensor, x: Tensor, y_true: Tensor, eta: float = 0.01
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights, bias = [Value(v) for v in w.tolist()], Value(b.item())
    y = add(*(w_i * x_i for w_i, x_i in zip(weights, x.tolist(), strict=True)), bias)
    ((y_true.item() - y) ** 2).backward()
    dw, db = w.new_tensor([v.gradient for v in weights]), b.new_tensor(bias.gradient)
    return dw, db, w - eta * dw, b - eta * db


exercise = Exercise(
    "neuron_step",
    points=2,
    difficulty=1,
    minutes=10,
    reference=reference,
    chapter="backprop#local-derivatives",
    forbids=AUTOGRAD,
    rule=RULE,
)


def neuron(draw: Draw, n: int, note: str = "", **settings: float) -> Case:
    """A neuron with n inputs whose output misses its target."""
    w, b, x = draw.normal(n), draw.normal(), draw.normal(n)
    y_true = (draw.normal(dtype=torch.float64) + 4).float()
    return Case((w, b, x, y_true), settings, note=note)


LECTURE = (
    torch.tensor([2.0, -1.0]), torch.tensor(1.0), torch.tensor([4.0, -3.0]), torch.tensor(10.0)
)  # fmt: skip


@exercise.property("the gradients are the products of the derivatives on the way back", weight=2)
def gradients(draw: Draw):
    still = "a learning rate of 0, so that only the gradients count"
    yield Case(LECTURE, {"eta": 0.0}, note=f"the lecture's numbers and {still}")
    yield neuron(draw, 2, still, eta=0.0)
    yield neuron(draw, 2, still, eta=0.0)


@exercise.property("the new weights lie one step downhill", weight=1.5)
def updates(draw: Draw):
    yield Case(LECTURE, note="the lecture's numbers")
    yield neuron(draw, 2)
    yield neuron(draw, 2, "another learning rate", eta=draw.integer(5, 40) / 100)


@exercise.property("there may be any number of inputs", weight=0.5)
def sizes(draw: Draw):
    yield neuron(draw, 1, "a single input", eta=0.1)
    yield neuron(draw, draw.integer(4, 7), "more than two inputs", eta=0.1)


@exercise.wrong(
    "forgets the minus inside the square",
    hint="The loss is the square of y_true - y. How does that difference move when y grows by a "
    "little? That factor belongs into the product.",
    see="backprop#the-chain-rule",
)
def no_inner_minus(w, b, x, y_true, eta=0.01):
    y = (w * x).sum() + b
    dy = 2 * (y_true - y)
    return dy * x, dy, w - eta * dy * x, b - eta * dy


@exercise.wrong(
    "forgets the factor 2 of the square",
    hint="Your gradients point the right way and are all too short by one factor. What is the "
    "derivative of a square?",
    see="backprop#local-derivatives",
)
def no_two(w, b, x, y_true, eta=0.01):
    dy = (w * x).sum() + b - y_true
    return dy * x, dy, w - eta * dy * x, b - eta * dy


@exercise.wrong(
    "gives every weight the gradient of the sum",
    hint="A weight moves y by as much as its input is large. Which local derivative lies between "
    "h = w x and w?",
    see="backprop#local-derivatives",
)
def no_input(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    dw = torch.ones_like(w) * dy
    return dw, dy, w - eta * dw, b - eta * dy


@exercise.wrong(
    "multiplies by the weight where the input belongs",
    hint="In h = w x, hold x still and move w. What is the slope, the weight or the other factor?",
    see="backprop#local-derivatives",
)
def weight_for_input(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    dw = dy * w
    return dw, dy, w - eta * dw, b - eta * dy


@exercise.wrong(
    "takes the loss itself for its derivative",
    hint="What travels back from the loss is its slope with respect to y, not its size. "
    "Differentiate the square first.",
    see="backprop#local-derivatives",
)
def loss_travels(w, b, x, y_true, eta=0.01):
    dy = (y_true - ((w * x).sum() + b)) ** 2
    return dy * x, dy, w - eta * dy * x, b - eta * dy


@exercise.wrong(
    "multiplies the gradient of the bias by the bias",
    hint="The bias is added, not multiplied by anything. What is the derivative of a sum with "
    "respect to one of its terms?",
    see="backprop#local-derivatives",
)
def bias_times_bias(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    return dy * x, dy * b, w - eta * dy * x, b - eta * dy * b


@exercise.wrong(
    "goes uphill",
    hint="The gradients are right. A gradient points to where the loss grows: on which side of the "
    "weight do you want to end?",
    see="backprop#one-step-of-descent",
)
def uphill(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    return dy * x, dy, w + eta * dy * x, b + eta * dy


@exercise.wrong(
    "runs forward again with the new weights before it turns to the bias",
    hint="All gradients of one step belong to one forward pass. Which weights does your gradient of "
    "b see, the old or the new ones?",
    see="backprop#one-step-of-descent",
)
def one_after_another(w, b, x, y_true, eta=0.01):
    dw = 2 * ((w * x).sum() + b - y_true) * x
    new_w = w - eta * dw
    db = 2 * ((new_w * x).sum() + b - y_true)
    return dw, db, new_w, b - eta * db


@exercise.wrong(
    "writes the new weights over the old ones",
    hint="`-=` changes the tensor that the caller gave you. Print w before and after the call.",
    see="backprop#one-step-of-descent",
)
def in_place(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    w -= eta * dy * x
    b -= eta * dy
    return dy * x, dy, w, b


@exercise.wrong(
    "uses the learning rate of the lecture whatever it is given",
    hint="The result is right for the default alone. Where in your code does `eta` appear?",
    see="backprop#one-step-of-descent",
)
def fixed_eta(w, b, x, y_true, eta=0.01):
    dy = 2 * ((w * x).sum() + b - y_true)
    return dy * x, dy, w - 0.01 * dy * x, b - 0.01 * dy


@exercise.wrong(
    "counts on exactly two inputs",
    hint="The lecture has two inputs, the exercise any number. Which indices did you write down?",
    see="backprop#local-derivatives",
)
def two_inputs(w, b, x, y_true, eta=0.01):
    dy = 2 * (w[0] * x[0] + w[-1] * x[-1] + b - y_true)
    dw = torch.stack((dy * x[0], dy * x[-1]))
    return dw, dy, torch.stack((w[0] - eta * dw[0], w[-1] - eta * dw[1])), b - eta * dy


@exercise.right("node by node, as the graph is drawn")
def node_by_node(w, b, x, y_true, eta=0.01):
    h = w * x
    y = h.sum() + b
    dL_dy = -2 * (y_true - y)
    dL_dh = dL_dy
    dw, db = dL_dh * x, dL_dy
    return dw, db, w - eta * dw, b - eta * db


@exercise.right("the bias as the weight of an input that is always 1")
def bias_as_weight(w, b, x, y_true, eta=0.01):
    inputs = torch.cat((x, torch.ones(1, dtype=x.dtype)))
    weights = torch.cat((w, b.reshape(1)))
    gradient = 2 * (weights @ inputs - y_true) * inputs
    new = weights - eta * gradient
    return gradient[:-1], gradient[-1], new[:-1], new[-1]


@exercise.right("number by number in plain Python")
def plain_python(w, b, x, y_true, eta=0.01):
    y = b.item()
    for i in range(len(w)):
        y += w[i].item() * x[i].item()
    slope = 2 * y - 2 * y_true.item()
    dw = torch.tensor([slope * x_i for x_i in x.tolist()])
    db = torch.tensor(slope)
    return dw, db, w.sub(eta * dw), b.sub(eta * db)


@exercise.shortcut("a backward pass of torch")
def torch_backward(w, b, x, y_true, eta=0.01):
    w_, b_ = w.clone().requires_grad_(), b.clone().requires_grad_()
    ((y_true - (w_ * x).sum() - b_) ** 2).backward()
    return w_.grad, b_.grad, w - eta * w_.grad, b - eta * b_.grad


@exercise.shortcut("torch.autograd.grad")
def torch_grad(w, b, x, y_true, eta=0.01):
    w_, b_ = w.clone().requires_grad_(), b.clone().requires_grad_()
    dw, db = torch.autograd.grad((y_true - (w_ * x).sum() - b_) ** 2, (w_, b_))
    return dw, db, w - eta * dw, b - eta * db
