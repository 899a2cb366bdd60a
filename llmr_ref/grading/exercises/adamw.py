"""Exercise: the optimizer AdamW, with a state of its own for every parameter."""

import torch
from torch import Tensor

from llmr_ref import optim
from llmr_ref.grading.exercise import Case, Draw, Exercise


class Reference:
    """The reference's AdamW with what the exercise asks for: step, zero_grad and a settable lr."""

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        self.lr = lr
        self.inner = optim.AdamW(
            parameters, lr, betas, eps, weight_decay, implementation="explicit"
        )

    def step(self) -> None:
        self.inner.param_groups[0]["lr"] = self.lr
        self.inner.step()

    def zero_grad(self) -> None:
        self.inner.zero_grad()


exercise = Exercise(
    "AdamW",
    points=5,
    difficulty=3,
    minutes=35,
    reference=Reference,
    chapter="training-run#adamw",
    forbids=(
        *(f"torch.optim.{name}" for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")),
        "torch._fused_adamw_",
        "torch._fused_adam_",
    ),
    rule="Write the four lines of the update yourself; `torch.optim` is what you are rebuilding.",
)


@exercise.driver
def steps(AdamW, weights, gradients, lr, settings, rates=(), again=False):
    """The weights after every step. gradients: one list per step, None where there is none."""
    parameters = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = AdamW(parameters, lr, **settings)
    other = [torch.nn.Parameter(torch.ones_like(w)) for w in weights]
    second = AdamW(other, lr, **settings) if again else None
    seen = []
    for i, step in enumerate(gradients):
        for p, g in zip(parameters, step, strict=True):
            p.grad = None if g is None else g.clone()
        if i < len(rates):
            optimizer.lr = rates[i]
        optimizer.step()
        seen.append([p.detach().clone() for p in parameters])
        if second is not None:
            for p in other:
                p.grad = torch.full_like(p, 5.0)
            second.step()
    optimizer.zero_grad()
    left = [p.grad is not None and bool(p.grad.any()) for p in parameters]
    return {"weights": seen, "a gradient is left": any(left)}


CLOSE = 3e-5
PLAIN = {"weight_decay": 0.0}


def some(draw: Draw, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [draw.normal(*shape) for shape in shapes]


def large(draw: Draw, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Gradients away from 0, where the direction of a step would hang on rounding."""
    return [g + torch.where(g < 0, -0.2, 0.2) for g in some(draw, *shapes)]


@exercise.property("the first step has the length of the learning rate in every entry", weight=2)
def first_step(draw: Draw):
    weights = [torch.tensor([1.0, -2.0])]
    gradients = [[torch.tensor([0.5, -3.0])]]
    yield Case((weights, gradients, 0.1, PLAIN), note="one step, no decay", tolerance=CLOSE)
    shapes = (2, 3), (4,)
    yield Case(
        (some(draw, *shapes), [large(draw, *shapes)], draw.integer(2, 9) / 100, PLAIN),
        note="one step, no decay, two parameters",
        tolerance=CLOSE,
    )


@exercise.property("m and v are running means, freed of their beginning at zero", weight=2)
def moments(draw: Draw):
    gradients = [[torch.tensor([1.0])], [torch.tensor([-3.0])]]
    yield Case(([torch.tensor([2.0])], gradients, 0.1, PLAIN), note="two steps", tolerance=CLOSE)
    shapes = (3,), (2, 2)
    gradients = [large(draw, *shapes) for _ in range(5)]
    yield Case((some(draw, *shapes), gradients, 0.05, PLAIN), note="five steps", tolerance=CLOSE)
    settings = {"betas": (0.6, 0.8), "weight_decay": 0.0}
    gradients = [large(draw, *shapes) for _ in range(4)]
    yield Case(
        (some(draw, *shapes), gradients, 0.05, settings), note="other betas", tolerance=CLOSE
    )
    settings = {"eps": 0.5, "weight_decay": 0.0}
    gradients = [large(draw, *shapes) for _ in range(3)]
    yield Case(
        (some(draw, *shapes), gradients, 0.05, settings), note="a large eps", tolerance=CLOSE
    )


@exercise.property("the decay shrinks the weights themselves, by lr times weight_decay", weight=2)
def decay(draw: Draw):
    settings = {"weight_decay": 0.5}
    weights, gradients = [torch.tensor([4.0])], [[torch.tensor([1.0])]]
    yield Case(
        (weights, gradients, 0.1, settings), note="one step, weight_decay=0.5", tolerance=CLOSE
    )
    gradients = [large(draw, (3,)) for _ in range(3)]
    yield Case((some(draw, (3,)), gradients, 0.2, {}), note="the default decay", tolerance=CLOSE)
    still = [[torch.zeros(2)], [torch.zeros(2)]]
    yield Case((some(draw, (2,)), still, 0.2, settings), note="gradients of zero", tolerance=CLOSE)


@exercise.property("the learning rate may change between steps, and zero_grad clears")
def rates(draw: Draw):
    gradients = [large(draw, (2, 2)) for _ in range(3)]
    changing = [0.2, 0.1, 0.05]
    yield Case(
        (some(draw, (2, 2)), gradients, 0.3, PLAIN), {"rates": changing},
        note="a new lr in every step", tolerance=CLOSE,
    )  # fmt: skip
    yield Case(
        (some(draw, (2,)), [large(draw, (2,)) for _ in range(2)], 0.3, {"weight_decay": 1.0}),
        {"rates": [0.1, 0.02]},
        note="a new lr in every step, with decay",
        tolerance=CLOSE,
    )


@exercise.property("every parameter has a state of its own, and none moves without a gradient")
def separate(draw: Draw):
    shapes = (2,), (2,)
    gradients = [large(draw, *shapes) for _ in range(3)]
    missing: list[list[Tensor | None]] = [list(step) for step in gradients]
    missing[0][1] = missing[1][0] = None
    yield Case((some(draw, *shapes), missing, 0.1, {}), note="None as a gradient", tolerance=CLOSE)
    gradients = [large(draw, *shapes) for _ in range(3)]
    gradients[0][0] *= 10
    yield Case(
        (some(draw, *shapes), gradients, 0.1, {}), {"again": True},
        note="a second optimizer in between", tolerance=CLOSE,
    )  # fmt: skip


@exercise.wrong(
    "does not correct that m and v began at zero",
    hint="After the first step m is (1 - beta1) g: a tenth of the gradient. Which factor makes it"
    " g again?",
    see="training-run#adamw",
)
class NoCorrection:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i]
            v = self.v[i]
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "corrects m and forgets v",
    hint="v began at zero too. By which factor is it too small after the first step?",
    see="training-run#adamw",
)
class CorrectsOnlyM:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i]
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "adds the decay to the gradient",
    hint="That is Adam with L2: the decay is divided by the root of v as well. The W of AdamW"
    " means that it goes to the weights directly.",
    see="training-run#adamw",
)
class L2:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            g = g + self.weight_decay * p
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "decays by weight_decay, whatever the learning rate is",
    hint="Your weights lose half of themselves in a step with weight_decay = 0.5. Which factor"
    " makes the decay small when the steps are small?",
    see="training-run#adamw",
)
class DecayWithoutLr:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "does not decay at all",
    hint="Give it gradients of zero and a decay: the weights should shrink.",
    see="training-run#adamw",
)
class NoDecay:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "divides by v instead of its root",
    hint="The first step should be as long as lr in every entry. What are the units of g, of m and"
    " of v?",
    see="training-run#adamw",
)
class NoRoot:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "adds eps under the root",
    hint="With a large eps the two differ. In the formula, is eps added to v or to its root?",
    see="training-run#adamw",
)
class EpsInside:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v + self.eps).sqrt())

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "takes the betas the wrong way round",
    hint="Which of the two belongs to the mean of the gradients, and which to that of their"
    " squares?",
    see="training-run#adamw",
)
class BetasSwapped:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta2, beta1 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "gathers squares without forgetting any",
    hint="v has to be a running mean: the old value loses as much weight as the new square gets.",
    see="training-run#adamw",
)
class Gathers:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, _ = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = self.v[i] + g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i]
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "feeds the square of m into v",
    hint="v is the mean of the squared gradients, not of the squared means: two steps with"
    " gradients 1 and -3 tell.",
    see="training-run#adamw",
)
class SquareOfM:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * self.m[i] ** 2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "counts the steps of all parameters together",
    hint="A parameter that had no gradient in the first step makes its first step later. Which t"
    " does its correction need?",
    see="training-run#adamw",
)
class OneCounter:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        self.t += 1
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1**self.t)
            v = self.v[i] / (1 - beta2**self.t)
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "counts the steps from 0",
    hint="beta to the power 0 is 1, and then the correction divides by 0. Which number has the"
    " first step?",
    see="training-run#adamw",
)
class CountsFromZero:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))
            self.t[i] += 1

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "keeps one m and one v for all parameters of a shape",
    hint="Two parameters of the same shape disturb each other. What may a state be looked up by?",
    see="training-run#adamw",
)
class SharedState:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(self.parameters[0])] * len(self.parameters)
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i].mul_(beta1).add_((1 - beta1) * g)
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "remembers the first learning rate",
    hint="A schedule sets optimizer.lr before every step. What do you read in the step?",
    see="training-run#adamw",
)
class FixedLr:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.rate = lr
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.rate * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.rate * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "leaves the gradients in zero_grad",
    hint="backward adds to what is there. After zero_grad no gradient may be left.",
    see="training-run#adamw",
)
class KeepsGradients:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = p.grad


@exercise.wrong(
    "gives the name to a new tensor and leaves the parameter where it is",
    hint="`p = p - step` makes a new tensor; the model still holds the old one. Which operations"
    " change p itself?",
    see="training-run#adamw",
)
class MovesNames:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p = p * (1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p = p - self.lr * m / (v.sqrt() + self.eps)

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.wrong(
    "goes uphill",
    hint="The gradient points to where the loss grows.",
    see="training-run#adamw",
)
class Uphill:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.add_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.right("lists of m, v and t")
class Lists:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is None:
                continue
            self.t[i] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m = self.m[i] / (1 - beta1 ** self.t[i])
            v = self.v[i] / (1 - beta2 ** self.t[i])
            p.sub_(self.lr * m / (v.sqrt() + self.eps))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@exercise.right("a dictionary of states, in place")
class InPlace:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters, self.lr = [p for p in parameters], lr
        self.beta1, self.beta2 = betas
        self.eps, self.weight_decay = eps, weight_decay
        self.states = {}

    def step(self):
        with torch.no_grad():
            for p in self.parameters:
                if p.grad is not None:
                    self.update(p)

    def update(self, p):
        state = self.states.setdefault(
            id(p), {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        )
        state["t"] += 1
        state["m"].mul_(self.beta1).add_(p.grad, alpha=1 - self.beta1)
        state["v"].mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
        p.mul_(1 - self.lr * self.weight_decay)
        root = (state["v"] / (1 - self.beta2 ** state["t"])).sqrt_().add_(self.eps)
        p.addcdiv_(state["m"], root, value=-self.lr / (1 - self.beta1 ** state["t"]))

    def zero_grad(self):
        for p in self.parameters:
            if p.grad is not None:
                p.grad.zero_()


@exercise.right("through .data, with the running factors of the correction")
class RunningFactors:
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.lr, self.eps, self.weight_decay, self.betas = lr, eps, weight_decay, betas
        self.slots = [[p, 0.0, 0.0, 1.0, 1.0] for p in parameters]

    def step(self):
        b1, b2 = self.betas
        for slot in self.slots:
            p, m, v, left1, left2 = slot
            if p.grad is None:
                continue
            g = p.grad.data
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            left1, left2 = left1 * b1, left2 * b2
            slot[1:] = [m, v, left1, left2]
            direction = (m / (1 - left1)) / ((v / (1 - left2)) ** 0.5 + self.eps)
            p.data = p.data - self.lr * self.weight_decay * p.data - self.lr * direction

    def zero_grad(self):
        for slot in self.slots:
            slot[0].grad = None


@exercise.shortcut("a subclass of torch.optim.AdamW")
class Torch(torch.optim.AdamW):
    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @property
    def lr(self):
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value):
        self.param_groups[0]["lr"] = value
