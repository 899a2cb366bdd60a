"""Policy gradient on a policy of three tokens: the exact gradient, and what samples make of it.

>>> PolicyGradient()  # the example of the chapter
>>> PolicyGradient(rewards=[11, 10, 10.5], baseline="none")
>>> PolicyGradient(beta=0.5, group=32, step=60)
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.policy_gradient import (
    clipped_objective,
    expected_reward_gradient,
    group_advantages,
    kl_divergence,
)
from llmr_ref.posttraining import optimal_policy
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import bars_picture

TOKENS = ("A", "B", "C")
BASELINES = ("none", "expected", "mean", "leave one out", "standardized")
RANGES: dict[str, tuple[float, float]] = {
    "group": (1, 64),
    "rate": (0.01, 10),
    "beta": (0, 5),
    "epochs": (1, 16),
    "clip": (0, 10),
    "step": (0, 60),
    "seed": (0, 2**32 - 1),
}


class PolicyGradient(EmbeddableWidget):
    """A policy over three tokens in a triangle, its exact gradient and the estimate from a group.

    start: three logits, the policy at step 0, which is also the reference. rewards: one for each token.
    group: samples a step; baseline: what is subtracted from their rewards; rate: of the ascent; epochs:
    ascents on one group, clipped at 1 +- clip; beta: price of a nat away from the reference; step: how
    many steps were taken. The draws follow from `seed`.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("policy_gradient")

    start = traitlets.List(traitlets.Float(), [0.5, 0.0, -0.5]).tag(sync=True)
    rewards = traitlets.List(traitlets.Float(), [1.0, 0.0, 0.5]).tag(sync=True)
    group = traitlets.Int(8).tag(sync=True)
    baseline = traitlets.Enum(BASELINES, "expected").tag(sync=True)
    rate = traitlets.Float(3.0).tag(sync=True)
    beta = traitlets.Float(0.0).tag(sync=True)
    epochs = traitlets.Int(1).tag(sync=True)
    clip = traitlets.Float(0.2).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    seed = traitlets.Int(1).tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(expected_reward_gradient, begin="pi, r =", reward="(pi * (r - "),
            *code_lines(group_advantages, begin='if baseline == "mean"', baseline="b = ")[:5],
            *code_lines(
                clipped_objective,
                begin="rho =",
                ratio="rho = ",
                clip="rho.clamp",
                baseline="torch.minimum",
            ),
        ]
    ).tag(sync=True)

    def __init__(self, **settings: Any) -> None:
        unknown = settings.keys() - set(self.trait_names())
        if unknown:
            raise TypeError(f"there is no {', '.join(sorted(unknown))}")
        for name in ("start", "rewards"):
            if name in settings:
                settings[name] = [float(x) for x in settings[name]]
        super().__init__(**settings)

    @traitlets.validate(*RANGES)
    def _check_number(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        value = within(name, proposal["value"], *RANGES[name])
        if name == "group":
            self._check_group(value, self.baseline)
        return value

    @traitlets.validate("baseline")
    def _check_baseline(self, proposal: Any) -> str:
        self._check_group(self.group, proposal["value"])
        return proposal["value"]

    def _check_group(self, group: int, baseline: str) -> None:
        if group < 2 and baseline not in ("none", "expected"):
            raise StateError(f"the baseline {baseline!r} needs a group of 2 or more, got {group}")

    @traitlets.validate("start", "rewards")
    def _check_three(self, proposal: Any) -> list[float]:
        name, value = proposal["trait"].name, proposal["value"]
        far = 12 if name == "start" else 100
        if len(value) != 3 or not all(abs(x) <= far for x in value):
            raise StateError(f"{name} must be three numbers up to {far}, got {value}")
        return value

    def _exact(self) -> tuple[Tensor, Tensor, float]:
        """Policy, exact gradient and E[r] after `step` steps along the exact gradient."""
        z = exact_run(
            torch.tensor(self.start, dtype=torch.float64),
            torch.tensor(self.rewards, dtype=torch.float64),
            beta=self.beta,
            rate=self.rate,
            epochs=self.epochs,
            steps=self.step,
        )[-1]
        rewards = torch.tensor(self.rewards, dtype=torch.float64)
        gradient = objective_gradient(z, rewards, z.new_tensor(self.start), self.beta)
        return z.softmax(-1), gradient, float(z.softmax(-1) @ rewards)

    def description(self) -> str:
        p, gradient, expected = self._exact()
        return (
            f"A policy over three tokens with rewards {', '.join(f'{r:g}' for r in self.rewards)}, after "
            f"{self.step} exact steps: probabilities {', '.join(f'{x:.3f}' for x in p.tolist())}, "
            f"expected reward {expected:.3f}, exact gradient in the logits "
            f"{', '.join(f'{x:.3f}' for x in gradient.tolist())}."
        )

    def picture(self) -> str:
        p, _, _ = self._exact()
        reference = torch.tensor(self.start, dtype=torch.float64).softmax(-1)
        return bars_picture(
            "Probabilities of the tokens; outlined: the reference",
            [
                (f"{token}, r = {r:g}", float(x), f"{x:.3f}")
                for token, r, x in zip(TOKENS, self.rewards, p.tolist(), strict=True)
            ],
            ghosts=reference.tolist(),
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        policies = [[0.5, 0.0, -0.5], [2.0, 2.0, -4.0], [-3.0, 1.0, 8.0]]
        rewards = [[1.0, 0.0, 0.5], [11.0, 10.0, 10.5], [0.0, 0.0, 1.0], [2.0, 2.0, 2.0]]
        reference = torch.tensor([0.1, -0.4, 0.9], dtype=torch.float64)
        for logits, r in itertools.product(policies, rewards):
            z, values = (torch.tensor(x, dtype=torch.float64) for x in (logits, r))
            yield Golden("exactGradient", [z, values], expected_reward_gradient(z, values))
            yield Golden("klDivergence", [z, reference], kl_divergence(z, reference))
            gradient = objective_gradient(z, values, reference, 0.7)
            yield Golden("exactGradient", [z, values, reference, 0.7], gradient)
            best = optimal_policy(z.log_softmax(-1), values, beta=0.5).exp()
            yield Golden("optimalPolicy", [z, values, 0.5], best)
            settings = {"beta": 0.3, "rate": 1.5, "epochs": 2, "steps": 4}
            path = torch.stack(exact_run(z, values, beta=0.3, rate=1.5, epochs=2, steps=4))
            yield Golden("exactRun", [z, values, settings], path)
            for baseline, G in itertools.product(BASELINES, (1, 2, 4)):
                if G > 1 or baseline in ("none", "expected"):
                    expected = average_over_groups(z, values, G, baseline)
                    yield Golden("estimator", [z, values, G, baseline], expected)
        old, A = torch.tensor([0.2, 0.0, -0.3], dtype=torch.float64), torch.tensor([2.0, -1.0, 0.5])
        for logits, clip in itertools.product(policies[:2], (0.0, 0.2, 10.0)):
            z = torch.tensor(logits, dtype=torch.float64)
            counts = [3, 0, 5]
            gradient = clipped_gradient(z, old, counts, A.double(), clip)
            yield Golden("clippedGradient", [z, old, counts, A, clip], gradient)


# --- the reference's numbers for three tokens, as a page needs them ---------------------------------


def objective_gradient(
    logits: Float[Tensor, " 3"],
    rewards: Float[Tensor, " 3"],
    reference: Float[Tensor, " 3"],
    beta: float,
) -> Float[Tensor, " 3"]:
    """Torch's gradient of E[r] - beta KL(pi || ref) in the logits."""
    z = logits.detach().clone().requires_grad_()
    objective = z.softmax(-1) @ rewards - beta * kl_divergence(z, reference)
    (gradient,) = torch.autograd.grad(objective, z)
    return gradient


def exact_run(
    start: Float[Tensor, " 3"],
    rewards: Float[Tensor, " 3"],
    *,
    beta: float,
    rate: float,
    epochs: int,
    steps: int,
) -> list[Float[Tensor, " 3"]]:
    """Logits after 0, 1, ... steps of `epochs` ascents along the exact gradient."""
    path = [start]
    for _ in range(steps):
        z = path[-1]
        for _ in range(epochs):
            z = z + rate * objective_gradient(z, rewards, start, beta)
        path.append(z)
    return path


def average_over_groups(
    logits: Float[Tensor, " 3"], rewards: Float[Tensor, " 3"], G: int, baseline: str
) -> dict[str, Any]:
    """Mean and variance of the estimate from G samples, going through every ordered group."""
    p = logits.softmax(-1)
    mean, square = torch.zeros(3, dtype=torch.float64), 0.0
    for drawn in itertools.product(range(3), repeat=G):
        index = list(drawn)
        r = rewards[index]
        if baseline == "none":
            A = r
        elif baseline == "expected":
            A = r - p @ rewards
        elif baseline == "leave one out":
            A = group_advantages(r, baseline="leave one out", standardize=False)
        else:
            A = group_advantages(r, standardize=baseline == "standardized")
        estimate = (A[:, None] * (torch.eye(3, dtype=torch.float64)[index] - p)).mean(0)
        weight = math.prod(p[index].tolist())
        mean += weight * estimate
        square += weight * float(estimate @ estimate)
    return {"mean": mean, "variance": max(0.0, square - float(mean @ mean))}


def clipped_gradient(
    logits: Float[Tensor, " 3"],
    old: Float[Tensor, " 3"],
    counts: list[int],
    advantages: Float[Tensor, " 3"],
    clip: float,
) -> Float[Tensor, " 3"]:
    """Torch's gradient of the mean clipped objective of a group that drew token a counts[a] times."""
    z = logits.detach().clone().requires_grad_()
    per_token = clipped_objective(
        z.log_softmax(-1), old.log_softmax(-1), advantages, clip_low=min(clip, 1.0), clip_high=clip
    )
    objective = (per_token * torch.tensor(counts)).sum() / sum(counts)
    (gradient,) = torch.autograd.grad(objective, z)
    return gradient
