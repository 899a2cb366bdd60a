"""Softmax, the square root and temperature: when scores are large, the softmax stops learning.

>>> SoftmaxTemperature()  # 64 products, divided by their root
>>> SoftmaxTemperature(divide="none")  # the same head without the root
>>> SoftmaxTemperature(d_k=128, temperature=0.5)

The query and the keys are drawn here, each entry with mean 0 and variance 1; no lecture prints any.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.attention import attention_weights
from llmr_ref.backprop import softmax_backward
from llmr_ref.widgets.embed import EmbeddableWidget, Golden, code_lines, module_source, within
from llmr_ref.widgets.still import bars_picture

KEYS, WIDEST, DRAWS = 8, 512, 50
WIDTHS = tuple(2**n for n in range(10))  # where the average over DRAWS is taken
DIVIDE = ("none", "root", "width")
MEASURES = ("gradient", "looks", "largest")

_weights_code = code_lines(
    attention_weights,
    begin="scale = 1 / math.sqrt",
    root="scale = 1 / math.sqrt",
    score="scores = dot_scores",
    temperature="scores = dot_scores",
    softmax="return masked_softmax",
)
CODE = [
    *_weights_code[:3],
    ["    …  # mask and bias", ""],
    _weights_code[-1],
    *code_lines(softmax_backward, begin="return", gradient="return"),
]


def normals(seed: int, n: int) -> Float[Tensor, " n"]:
    """n numbers from the normal distribution, float64: mulberry32, then Box and Muller by pairs.

    Two lines of code in any language, so that the page draws what Python draws.
    """
    i = np.arange(1, 2 * ((n + 1) // 2) + 1, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    a = (np.uint64(seed) + i * np.uint64(0x6D2B79F5)) & low
    t = ((a ^ (a >> np.uint64(15))) * (a | np.uint64(1))) & low
    t = ((t + (((t ^ (t >> np.uint64(7))) * (t | np.uint64(61))) & low)) & low) ^ t
    u = torch.from_numpy((t ^ (t >> np.uint64(14))).astype(np.float64) / 2**32)
    radius, angle = (-2 * (1 - u[0::2]).log()).sqrt(), 2 * torch.pi * u[1::2]
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten()[:n]


def vectors(seed: int) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "keys d"]]:
    """A query and KEYS keys, WIDEST wide; narrower heads take their first entries."""
    both = normals(seed, (1 + KEYS) * WIDEST).view(1 + KEYS, WIDEST)
    return both[:1], both[1:]


def divisor(divide: str, d_k: int) -> float:
    """What the scores are divided by, before the temperature."""
    return {"none": 1.0, "root": d_k**0.5, "width": float(d_k)}[divide]


class Attended(NamedTuple):
    """Weights, and three ways to say how decided they are."""

    weights: Tensor
    gradient: Tensor  # Frobenius norm of d weights / d scores
    looks: Tensor  # 2^entropy: as spread as over so many equal weights
    largest: Tensor


def attend(scores: Float[Tensor, "... keys"], by: float) -> Attended:
    """Softmax of the scores divided by `by`."""
    a = (scores / by).softmax(-1)
    jacobian = softmax_backward(
        torch.eye(a.shape[-1], dtype=a.dtype).expand(*a.shape, -1),
        a[..., None, :].expand(*a.shape, -1),
    )
    return Attended(a, jacobian.norm(dim=(-2, -1)), torch.special.entr(a).sum(-1).exp(), a.amax(-1))


def averages(divide: str, temperature: float) -> dict[str, list[float]]:
    """Each measure at each of WIDTHS, its mean over DRAWS draws."""
    both = normals(0, DRAWS * (1 + KEYS) * WIDEST).view(DRAWS, 1 + KEYS, WIDEST)
    walks = (both[:, :1] * both[:, 1:]).cumsum(-1)
    at = [
        attend(walks[:, :, d_k - 1], divisor(divide, d_k) * temperature)._asdict() for d_k in WIDTHS
    ]
    return {name: [float(one[name].mean()) for one in at] for name in MEASURES}


class SoftmaxTemperature(EmbeddableWidget):
    """One query and eight keys: scores, weights, and the size of the softmax's gradient.

    d_k: entries of query and keys, 1 to 512. divide: what the scores are divided by: "none", "root"
    (of d_k) or "width" (d_k itself, a common mistake). temperature divides them once more. seed draws
    the vectors. measure: what is drawn against d_k: "gradient", "looks" (as if at so many keys) or
    "largest" (weight).
    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("softmax_temperature")

    d_k = traitlets.Int(64).tag(sync=True)
    divide = traitlets.Enum(DIVIDE, "root").tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)
    seed = traitlets.Int(7).tag(sync=True)
    measure = traitlets.Enum(MEASURES, "gradient").tag(sync=True)
    code = traitlets.List(CODE).tag(sync=True)

    @traitlets.validate("d_k", "temperature", "seed")
    def _check_number(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        low, high = {"d_k": (1, WIDEST), "temperature": (0.01, 100), "seed": (0, 2**32 - 1)}[name]
        return within(name, proposal["value"], low, high)

    def attended(self, divide: str | None = None) -> Attended:
        """The reference's numbers for the present state, or for another divisor."""
        q, k = vectors(self.seed)
        scores = (q[:, : self.d_k] @ k[:, : self.d_k].mT)[0]
        return attend(scores, divisor(divide or self.divide, self.d_k) * self.temperature)

    def description(self) -> str:
        words = {"none": "not divided", "root": "divided by the root of d_k", "width": "by d_k"}
        here, raw = self.attended(), self.attended("none")
        return (
            f"Attention weights of eight keys with d_k = {self.d_k}, scores {words[self.divide]}, "
            f"temperature {self.temperature:g}. The largest weight is {here.largest:.3f}, the gradient "
            f"of the softmax has the size {here.gradient:.3f}; undivided they are {raw.largest:.3f} "
            f"and {raw.gradient:.3f} (outlined)."
        )

    def picture(self) -> str:
        here, raw = self.attended().weights.tolist(), self.attended("none").weights.tolist()
        return bars_picture(
            "Attention weights of eight keys; outlined: scores not divided",
            [(f"key {i}", w, f"{w:.3f}") for i, w in enumerate(here, 1)],
            ghosts=raw,
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        for seed, n in ((0, 7), (1, 8), (12345, 33), (2**32 - 1, 4)):
            yield Golden("normals", [seed, n], normals(seed, n))
        for seed, d_k in ((1, 1), (1, 64), (2, 512), (77, 100)):
            q, k = vectors(seed)
            scores = (q[:, :d_k] @ k[:, :d_k].mT)[0]
            yield Golden("scoresOf", [seed, d_k], scores)
            # And what the reference's own function makes of them
            weights = attention_weights(q[:, :d_k], k[:, :d_k])[0]
            yield Golden("attend", [scores, d_k**0.5], {"weights": weights})
            for by in (1.0, 0.01, d_k**0.5, 100.0 * d_k):
                yield Golden("attend", [scores, by], attend(scores, by)._asdict())
        ties = torch.tensor([3.0, 3.0, -1e4, 0.0], dtype=torch.float64)
        yield Golden("attend", [ties, 0.5], attend(ties, 0.5)._asdict())
        for divide, temperature in (("none", 1.0), ("root", 1.0), ("width", 0.25), ("none", 8.0)):
            yield Golden("averages", [divide, temperature], averages(divide, temperature))
