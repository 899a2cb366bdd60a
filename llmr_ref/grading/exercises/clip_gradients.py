"""Exercise: all gradients of a model shrunk together until their norm is small enough."""

import math

import torch
from torch import Tensor

from llmr_ref import optim
from llmr_ref.grading.exercise import Case, Draw, Exercise


def clip_gradients(parameters: list[Tensor], max_norm: float) -> float:
    return optim.clip_gradients(parameters, max_norm).item()


exercise = Exercise(
    "clip_gradients",
    points=3,
    difficulty=2,
    minutes=15,
    reference=clip_gradients,
    chapter="training-run#clipping",
    forbids=(
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.utils.clip_grad_norm",
        "torch.nn.utils.clip_grads_with_norm_",
        "torch.nn.utils.clip_grad_value_",
        "torch.nn.utils.get_total_norm",
    ),
    rule="Compute the norm yourself; `torch.nn.utils.clip_grad_norm_` is what you are rebuilding.",
)


@exercise.driver
def clip(clip_gradients, gradients, max_norm):
    """One parameter per gradient, None for one that has no gradient; the norm, and what is left."""
    parameters = [
        torch.nn.Parameter(torch.ones(2) if g is None else torch.ones_like(g)) for g in gradients
    ]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = None if g is None else g.clone()
    norm = clip_gradients(parameters, max_norm)
    return {"norm": norm, "gradients": [p.grad for p in parameters]}


CLOSE = 1e-5  # torch divides by norm + 1e-6, others by the norm


@exercise.property("gradients that are too long are shrunk to the largest norm", weight=2)
def shrunk(draw: Draw):
    yield Case(([torch.tensor([3.0, 4.0])], 1.0), note="a gradient of norm 5", tolerance=CLOSE)
    yield Case(([draw.normal(3, 4) + 1], 0.5), note="one matrix", tolerance=CLOSE)
    yield Case(
        ([draw.normal(2, 3) + 2, draw.normal(4)], draw.integer(5, 15) / 10),
        note="a matrix and a vector",
        tolerance=CLOSE,
    )


@exercise.property("one norm is taken over all parameters, one factor used for all", weight=2)
def together(draw: Draw):
    yield Case(
        ([torch.tensor([3.0]), torch.tensor([4.0])], 2.5), note="norms 3 and 4", tolerance=CLOSE
    )
    gradients = [draw.normal(2, 2), draw.normal(3) * 10, draw.normal(1, 2, 3) / 10]
    yield Case((gradients, 2.0), note="gradients of different size", tolerance=CLOSE)
    gradients = [torch.tensor([0.6, 0.0]), torch.tensor([[0.0, 0.6]]), torch.tensor([0.6])]
    yield Case((gradients, 1.0), note="each shorter than 1, together longer", tolerance=CLOSE)


@exercise.property("gradients that are short enough stay as they are")
def short(draw: Draw):
    yield Case(([torch.tensor([0.3, 0.4])], 1.0), note="a gradient of norm 0.5", tolerance=CLOSE)
    yield Case(
        ([draw.normal(2, 3), draw.normal(3)], 100.0), note="a large max_norm", tolerance=CLOSE
    )
    yield Case(
        ([draw.normal(4), draw.normal(2)], math.inf),
        note="max_norm=inf, to measure only",
        tolerance=CLOSE,
    )
    yield Case(
        ([torch.zeros(3), torch.zeros(2, 2)], 1.0), note="gradients of zeros", tolerance=CLOSE
    )


@exercise.property("parameters without a gradient are left out")
def without(draw: Draw):
    yield Case(([None, torch.tensor([6.0, 8.0])], 1.0), note="a None", tolerance=CLOSE)
    yield Case(
        ([draw.normal(3) * 3, None, draw.normal(2) * 3, None], 1.5),
        note="None twice",
        tolerance=CLOSE,
    )
    yield Case(([None], 1.0), note="no gradient at all")


@exercise.property("a norm that is not finite is reported and changes nothing")
def not_finite(draw: Draw):
    yield Case(
        ([torch.tensor([1.0, math.inf]), torch.tensor([2.0])], 1.0), note="an infinite entry"
    )
    broken = draw.normal(3)
    broken[draw.integer(0, 2)] = math.nan
    yield Case(([draw.normal(2), broken], 1.0), note="a nan")


@exercise.wrong(
    "clips every parameter by itself",
    hint="The step should keep its direction. What happens to it when a long gradient is shrunk and a"
    " short one is not?",
    see="training-run#clipping",
)
def each_alone(parameters, max_norm):
    total = 0.0
    for p in parameters:
        if p.grad is not None:
            norm = p.grad.float().norm().item()
            total += norm**2
            if math.isfinite(norm) and norm > max_norm:
                p.grad.mul_(max_norm / norm)
    return total**0.5


@exercise.wrong(
    "cuts every entry to the range from -max_norm to max_norm",
    hint="That is clipping by value: it changes the direction. Clipping by norm multiplies all entries"
    " by one factor.",
    see="training-run#clipping",
)
def by_value(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    if math.isfinite(norm):
        for g in gradients:
            g.clamp_(-max_norm, max_norm)
    return norm


@exercise.wrong(
    "makes short gradients longer",
    hint="A gradient of norm 0.5 came out with norm 1. The factor should never be above which number?",
    see="training-run#clipping",
)
def always_scales(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    if math.isfinite(norm) and norm > 0 and max_norm < math.inf:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm


@exercise.wrong(
    "adds up the norms of the parameters",
    hint="Norms 3 and 4 make 5 together. Treat all entries of all gradients as one long vector.",
    see="training-run#clipping",
)
def sum_of_norms(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum(g.double().norm().item() for g in gradients)
    if math.isfinite(norm) and norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return float(norm)


@exercise.wrong(
    "takes the largest norm of a parameter for the norm of all",
    hint="Three gradients of norm 0.6 are longer than 1 together. Which number takes all of them into"
    " account?",
    see="training-run#clipping",
)
def largest_norm(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.tensor([0.0] + [g.norm().item() for g in gradients]).max())
    if math.isfinite(norm) and norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm


@exercise.wrong(
    "forgets the square root",
    hint="For the gradient (3, 4) the norm is 5, not 25.",
    see="training-run#clipping",
)
def squared(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(sum((g.double() ** 2).sum().item() for g in gradients))
    if math.isfinite(norm) and norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm


@exercise.wrong(
    "puts new tensors into a variable and leaves the gradients as they were",
    hint="`g = g * factor` gives the name g to a new tensor; p.grad still is the old one. Which"
    " operation changes a tensor itself?",
    see="training-run#clipping",
)
def not_in_place(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    if norm > max_norm:
        for g in gradients:
            g = g * (max_norm / norm)
    return norm


@exercise.wrong(
    "measures the parameters instead of their gradients",
    hint="Your norm stays the same whatever the gradients are. Which attribute of a parameter holds"
    " its gradient?",
    see="training-run#clipping",
)
def of_the_weights(parameters, max_norm):
    norm = math.sqrt(sum((p.detach().double() ** 2).sum().item() for p in parameters))
    if norm > max_norm:
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(max_norm / norm)
    return norm


@exercise.wrong(
    "returns the norm after clipping",
    hint="The returned norm is for the log: it shows how wild the step was. Measure before you change.",
    see="training-run#clipping",
)
def norm_afterwards(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    if math.isfinite(norm) and norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))


@exercise.wrong(
    "multiplies by a factor that is 0 or nan when the norm is not finite",
    hint="One infinite entry turned the others into 0 or nan. Is there a direction left to keep? Then"
    " touch nothing and let the caller skip the step.",
    see="training-run#clipping",
)
def no_check(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        for g in gradients:
            g.mul_(factor)
    return norm


@exercise.wrong(
    "fails at a parameter without a gradient",
    hint="A parameter that the loss does not depend on has p.grad None. It adds nothing to the norm.",
    see="training-run#clipping",
)
def no_none(parameters, max_norm):
    gradients = [p.grad for p in parameters]
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    if math.isfinite(norm) and norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm


@exercise.right("the root of the sum of squares, one factor")
def root_of_sum(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    if max_norm < norm < math.inf:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm


@exercise.right("the norm of the norms")
def norm_of_norms(parameters, max_norm):
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    if not norms:
        return 0.0
    norm = torch.stack(norms).norm()
    if norm.isfinite():
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for p in parameters:
            if p.grad is not None:
                p.grad *= factor
    return norm.item()


@exercise.right("all gradients as one vector")
def one_vector(parameters, max_norm):
    pieces = [p.grad.flatten() for p in parameters if p.grad is not None]
    if len(pieces) == 0:
        return 0.0
    total = float(torch.linalg.vector_norm(torch.cat(pieces)))
    if math.isfinite(total) and total > max_norm:
        for p in parameters:
            if p.grad is not None:
                p.grad = p.grad * max_norm / total
    return total


@exercise.shortcut("torch's own clipping")
def torch_clip(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.isfinite():
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.item()


exercise.equivalent(
    "g.square().sum().item() -> g.square().sum()",
    because="math.sqrt takes a tensor of one number as well",
)
exercise.equivalent(
    "max_norm < norm < math.inf -> max_norm <= norm < math.inf",
    because="a norm that is exactly max_norm is scaled by 1",
)
