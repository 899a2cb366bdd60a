"""Exercise: PPO's clipped objective of every token."""

import torch
from torch import Tensor

from llmr_ref import policy_gradient
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(log_p: Tensor, old_log_p: Tensor, A: Tensor, epsilon: float = 0.2) -> Tensor:
    return policy_gradient.clipped_objective(log_p, old_log_p, A, clip_low=epsilon)


exercise = Exercise(
    "clipped_objective",
    points=3,
    difficulty=3,
    minutes=25,
    reference=reference,
    chapter="policy-gradients#clipping-the-ratio",
)


def ratios(*rho: float, A: tuple[float, ...], **about) -> Case:
    """Log-probabilities whose ratios are `rho`, with these advantages."""
    log_rho = torch.tensor(rho).log()
    old = torch.full_like(log_rho, -1.0)
    return Case((old + log_rho, old, torch.tensor(A)), **about)


@exercise.property("inside the clipping range it is rho A, with rho = pi / pi_old", weight=1.5)
def inside(draw: Draw):
    yield ratios(1.1, A=(2.0,), note="one token, a ratio of 1.1")
    yield ratios(0.9, 1.0, 1.15, A=(1.5, -2.0, -0.5), note="ratios near 1")
    old = draw.normal(4) - 3
    yield Case((old + draw.normal(4, scale=0.04), old, draw.normal(4, scale=2)))


@exercise.property("a token that has gained enough gains no more", weight=1.5)
def gained(draw: Draw):
    yield ratios(1.5, A=(2.0,), note="a good token, now far more likely")
    yield ratios(0.5, A=(-2.0,), note="a bad token, now far less likely")
    A = float(draw.integer(1, 4))
    yield ratios(2.5, 0.25, A=(A, -A), note="one of each")


@exercise.property("a token that went the wrong way is not clipped", weight=1.5)
def lost(draw: Draw):
    yield ratios(0.5, A=(2.0,), note="a good token, now far less likely")
    yield ratios(1.5, A=(-2.0,), note="a bad token, now far more likely")
    A = float(draw.integer(1, 4))
    yield ratios(0.2, 3.0, A=(A, -A), note="one of each")


@exercise.property("epsilon sets the range, and shapes and dtypes stay")
def settings(draw: Draw):
    A = (1.0, 1.0, -1.0, -1.0)
    yield ratios(1.1, 0.9, 1.1, 0.9, A=A, kwargs={"epsilon": 0.05}, note="epsilon = 0.05")
    A = (2.0, -1.0, 2.0, -1.0)
    yield ratios(1.4, 0.6, 1.6, 0.3, A=A, kwargs={"epsilon": 0.5}, note="epsilon = 0.5")
    old = draw.normal(2, 3) - 3
    yield Case((old + draw.normal(2, 3, scale=0.5), old, draw.normal(2, 3)), note="a batch")
    half = torch.bfloat16
    old = torch.tensor([-60.0, -20.0], dtype=half)
    new = torch.tensor([-59.75, -20.125], dtype=half)
    yield Case((new, old, torch.tensor([1.0, -3.0], dtype=half)), note="bfloat16")


@exercise.property("clipped tokens have no gradient, all others do")
def gradients(draw: Draw):
    yield ratios(1.1, A=(2.0,), gradients=True, note="the gradient of one token")
    A = (1.0, -1.0, 1.0, -1.0)
    yield ratios(1.5, 0.5, 0.5, 1.5, A=A, gradients=True, note="gradients of all four kinds")


@exercise.wrong(
    "does not clip",
    hint="However far a token's probability has moved, your objective rewards moving on. Where do "
    "1 - epsilon and 1 + epsilon enter?",
    see="policy-gradients#clipping-the-ratio",
)
def unclipped(log_p, old_log_p, A, epsilon=0.2):
    return ((log_p.float() - old_log_p.float()).exp() * A).to(log_p.dtype)


@exercise.wrong(
    "clips without the minimum",
    hint="A good token that became unlikely has no gradient here, so the mistake is never put right. "
    "What does the minimum with rho A change for it?",
    see="policy-gradients#why-the-minimum",
)
def no_minimum(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    return (rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "takes the larger of the two",
    hint="The objective is to be a lower bound, pessimistic about gains. Which of the two terms is "
    "the cautious one?",
    see="policy-gradients#why-the-minimum",
)
def maximum(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    A = A.float()
    return torch.maximum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "multiplies the smaller ratio by A",
    hint="The minimum is taken of the two products, not of the two ratios: a negative A turns the "
    "order round.",
    see="policy-gradients#why-the-minimum",
)
def minimum_of_ratios(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    smaller = torch.minimum(rho, rho.clamp(1 - epsilon, 1 + epsilon))
    return (smaller * A).to(log_p.dtype)


@exercise.wrong(
    "turns the ratio round",
    hint="Your rho falls when the policy makes a token more likely. The policy in training stands "
    "above the line.",
    see="policy-gradients#clipping-the-ratio",
)
def inverse_ratio(log_p, old_log_p, A, epsilon=0.2):
    rho = (old_log_p.float() - log_p.float()).exp()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "takes the difference of the logarithms for the ratio",
    hint="You subtract log-probabilities and stop there. Of which number is that the logarithm?",
    see="policy-gradients#clipping-the-ratio",
)
def log_ratio(log_p, old_log_p, A, epsilon=0.2):
    rho = log_p.float() - old_log_p.float()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "divides log-probabilities",
    hint="The ratio is one of probabilities. log a / log b is not log (a / b): what is?",
    see="policy-gradients#clipping-the-ratio",
)
def ratio_of_logs(log_p, old_log_p, A, epsilon=0.2):
    rho = log_p.float() / old_log_p.float()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "clips from above only",
    hint="For a bad token the limit is 1 - epsilon. Your range has one end.",
    see="policy-gradients#clipping-the-ratio",
)
def upper_only(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(max=1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "returns the loss in place of the objective",
    hint="The objective is to be made large; the minus comes where it is handed to an optimizer that "
    "makes things small. What does the exercise ask for?",
    see="policy-gradients#clipping-the-ratio",
)
def negated(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    A = A.float()
    return -torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).to(log_p.dtype)


@exercise.wrong(
    "clips the product instead of the ratio",
    hint="rho A lies near A, not near 1. What is it that should stay between 1 - epsilon and "
    "1 + epsilon?",
    see="policy-gradients#clipping-the-ratio",
)
def clips_the_product(log_p, old_log_p, A, epsilon=0.2):
    gain = (log_p.float() - old_log_p.float()).exp() * A.float()
    return torch.minimum(gain, gain.clamp(1 - epsilon, 1 + epsilon)).to(log_p.dtype)


@exercise.wrong(
    "fixes epsilon at 0.2",
    hint="The right range for the default, and for no other. Where does the argument appear in "
    "your formula?",
    see="policy-gradients#clipping-the-ratio",
)
def epsilon_fixed(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(0.8, 1.2) * A).to(log_p.dtype)


@exercise.wrong(
    "averages the tokens",
    hint="One number comes out, but which tokens belong to the answer is not known here. Return one "
    "value a token.",
    see="policy-gradients#clipping-the-ratio",
)
def averaged(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.float() - old_log_p.float()).exp()
    A = A.float()
    return torch.minimum(rho * A, rho.clamp(1 - epsilon, 1 + epsilon) * A).mean().to(log_p.dtype)


@exercise.right("the smaller of the two products")
def smaller_product(log_p, old_log_p, A, epsilon=0.2):
    rho = torch.exp(log_p - old_log_p)
    clipped = rho.clamp(1 - epsilon, 1 + epsilon)
    return torch.minimum(rho * A, clipped * A)


@exercise.right("a limit on one side, which one depends on the sign of A")
def by_sign(log_p, old_log_p, A, epsilon=0.2):
    rho = torch.exp(log_p.float() - old_log_p.float())
    A = A.float()
    limited = torch.where(A >= 0, rho.clamp(max=1 + epsilon), rho.clamp(min=1 - epsilon))
    return (limited * A).to(log_p.dtype)


@exercise.right("stacked and reduced, the ratio in double precision")
def stacked(log_p, old_log_p, A, epsilon=0.2):
    rho = (log_p.double() - old_log_p.double()).exp()
    both = torch.stack((rho, rho.clip(1 - epsilon, 1 + epsilon))) * A.double()
    return both.min(dim=0).values.to(log_p.dtype)
