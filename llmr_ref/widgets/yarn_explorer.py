"""The YaRN explorer: RoPE, position interpolation, a larger base and YaRN on one set of pairs.

>>> YarnExplorer()  # L1's YaRN: 2 048 tokens trained, 8 192 wanted
>>> YarnExplorer("linear", factor=8)
>>> YarnExplorer("yarn", base=500_000.0, trained=8192, ramp="turns", beta_fast=4.0)  # Llama 3's
>>> YarnExplorer(yarn=yarn_frequencies)  # a student's function over the reference
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.rope import (
    RopeScaling,
    attention_factor,
    rope_frequencies,
    rope_wavelengths,
    rotate_pairs,
    scaled_frequencies,
    yarn_ramp,
)
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import lines_picture

NAMES = {
    "none": "RoPE, no change",
    "linear": "interpolation",
    "ntk": "larger base",
    "yarn": "YaRN",
    "swapped": "L1's parentheses",
}
NEAR = 64  # how far the head that looks one back may look


def method_frequencies(
    method: str,
    d: int,
    base: float,
    trained: int,
    factor: float,
    *,
    ramp: str = "pairs",
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Float[Tensor, " pairs"]:
    """theta_k of a method, float64. ramp: of YaRN, linear in "pairs" (its code) or "turns" (its paper).

    "swapped" takes L1's parentheses at their word: it keeps the slow pairs and interpolates the fast.
    """
    theta = rope_frequencies(d, base)
    if method == "none":
        return theta
    if method == "swapped":
        settings = {"ramp": ramp, "beta_fast": beta_fast, "beta_slow": beta_slow}
        yarn = method_frequencies("yarn", d, base, trained, factor, **settings)  # type: ignore[arg-type]
        return theta / factor + theta - yarn
    kind: Any = method if method != "yarn" else "yarn" if ramp == "pairs" else "llama3"
    return scaled_frequencies(
        d, base, RopeScaling(kind, factor, trained, beta_fast=beta_fast, beta_slow=beta_slow)
    )


def head_scores(
    theta: Float[Tensor, " pairs"],
    frequencies: Float[Tensor, " pairs"],
    distances: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Scores, over d, of a query that fits best one position back at the trained theta."""
    d = 2 * len(theta)
    ones = torch.ones(1, d, dtype=torch.float64)
    query = rotate_pairs(ones, -theta[None])
    keys = rotate_pairs(ones.expand(len(distances), d), -distances[:, None] * frequencies)
    return (keys @ query[0]) / d


def pairs_out_of_range(
    theta: Float[Tensor, " pairs"],
    frequencies: Float[Tensor, " pairs"],
    trained: int,
    factor: float,
) -> int:
    """Pairs that did not finish a turn in training and reach larger angles in the longer text."""
    unfinished = trained * theta < 2 * math.pi
    return int((unfinished & (factor * frequencies > theta * (1 + 1e-9))).sum())


class YarnExplorer(StudentsWidget):
    """What each way of reading `factor` times the `trained` length does to every pair of RoPE.

    method: "none", "linear" (position interpolation), "ntk" (a larger base), "yarn", or "swapped" (L1's
    parentheses at their word). d, base: of RoPE. ramp, beta_fast, beta_slow: of YaRN. pair: the one on
    the dials. span: the score's distances, "near" or "far".
    yarn: a student's yarn_frequencies(d, factor, trained_length, base, beta_fast, beta_slow), whose ramp
    is linear in turns, drawn over the reference; it is asked for every state.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("yarn_explorer")

    method = traitlets.Enum(tuple(NAMES), "yarn").tag(sync=True)
    d = traitlets.Int(128).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    trained = traitlets.Int(2048).tag(sync=True)
    factor = traitlets.Float(4.0).tag(sync=True)
    ramp = traitlets.Enum(("pairs", "turns"), "pairs").tag(sync=True)
    beta_fast = traitlets.Float(32.0).tag(sync=True)
    beta_slow = traitlets.Float(1.0).tag(sync=True)
    pair = traitlets.Int(46).tag(sync=True)
    span = traitlets.Enum(("near", "far"), "near").tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(
                scaled_frequencies,
                begin='if scaling.kind == "linear"',
                linear="return theta / factor",
                ntk="base * factor ** (d",
                yarn="theta * (1 - interpolated)",
                ramp="interpolated = yarn_ramp",
                turns="turns = original * theta",
            ),
            *code_lines(attention_factor, begin="0.1 * math.log", temperature="0.1 * math.log"),
        ]
    ).tag(sync=True)

    def __init__(
        self, method: str = "yarn", *, yarn: Callable[..., Any] | None = None, **settings: Any
    ) -> None:
        if yarn is not None and not callable(yarn):
            raise TypeError(f"yarn must be callable, got {type(yarn).__name__}")
        self._yarn: Callable[..., Any] | None = None  # asks nothing until the state is whole
        super().__init__(method=method, **settings)
        self._yarn = yarn
        self._ask_student()

    @traitlets.validate("base", "trained", "factor", "beta_fast", "beta_slow", "pair")
    def _check_number(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        low, high = {
            "base": (2, 1e9),
            "trained": (8, 1_000_000),
            "factor": (1, 64),
            "beta_fast": (2.5, 64),
            "beta_slow": (0.1, 2),
            "pair": (0, 63),
        }[name]
        return within(name, proposal["value"], low, high)

    @traitlets.validate("d")
    def _check_d(self, proposal: Any) -> int:
        d: int = proposal["value"]
        if not 4 <= d <= 128 or d % 2:
            raise StateError(f"d must be even and lie in 4..128, got {d}")
        return d

    def frequencies(self, method: str | None = None) -> Float[Tensor, " pairs"]:
        """theta_k of the present state, or of another method in it."""
        return method_frequencies(
            method or self.method,
            self.d,
            self.base,
            self.trained,
            self.factor,
            ramp=self.ramp,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
        )

    _STATE = ("d", "base", "trained", "factor", "beta_fast", "beta_slow")

    @traitlets.observe(*_STATE)
    def _ask_student(self, change: Any = None) -> None:
        """Send the student's frequencies for the present state, or the error."""
        if self._yarn is not None:
            self._ask_about(self._STATE, self._checked)

    def _checked(self) -> dict[str, Any]:
        assert self._yarn is not None
        answer = self._yarn(
            self.d, self.factor, self.trained, self.base, self.beta_fast, self.beta_slow
        )
        got = torch.as_tensor(answer).detach().double()
        expected = method_frequencies(
            "yarn",
            self.d,
            self.base,
            self.trained,
            self.factor,
            ramp="turns",
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
        )
        if got.shape != expected.shape:
            raise ValueError(
                f"it must return {len(expected)} frequencies, one a pair, got {tuple(got.shape)}"
            )
        if not bool((got.isfinite() & (got > 0)).all()):
            raise ValueError("it returned frequencies that are not positive, finite numbers")
        apart = ((got - expected) / expected).abs()
        return {
            "frequencies": got.tolist(),
            "differs": (apart > 1e-5).tolist(),
            "worst": int(apart.argmax()),
        }

    def description(self) -> str:
        theta = rope_frequencies(self.d, self.base)
        near = torch.arange(NEAR, dtype=torch.float64)
        parts = []
        for method in ("none", "linear", "ntk", "yarn"):
            changed = self.frequencies(method)
            back = int(head_scores(theta, changed, near).argmax())
            out = pairs_out_of_range(theta, changed, self.trained, self.factor)
            parts.append(f"{NAMES[method]}: {out} pairs out of range, the head looks {back} back")
        return (
            f"Trained on {self.trained} tokens, reading {self.factor * self.trained:g}, "
            f"{self.d // 2} pairs, base {self.base:g}. {'; '.join(parts)}."
        )

    def picture(self) -> str:
        theta = rope_frequencies(self.d, self.base)
        k = [float(i) for i in range(self.d // 2)]
        methods = ["none", "linear", "ntk", "yarn"]
        if self.method == "swapped":
            methods.append("swapped")
        return lines_picture(
            "How much slower each pair turns",
            [(NAMES[m], k, (theta / self.frequencies(m)).tolist()) for m in methods],
            x_label="pair k",
            y_label="slower by",
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        distances = torch.tensor([0.0, 1.0, 2.0, 5.5, 63.0, 1000.0, 8191.0], dtype=torch.float64)
        for d, base, trained, factor in (
            (128, 10_000.0, 2048, 4.0),
            (128, 500_000.0, 8192, 8.0),
            (6, 1000.0, 100, 4.0),
            (4, 100.0, 8, 1.0),
            (64, 10.0, 512, 32.0),
            (32, 1e8, 300, 2.5),
        ):
            theta = rope_frequencies(d, base)
            yield Golden("ropeFrequencies", [d, base], theta)
            yield Golden("turnsOf", [theta, trained], trained / rope_wavelengths(d, base))
            yield Golden(
                "attentionFactor", [factor], attention_factor(RopeScaling("yarn", factor, trained))
            )
            for fast, slow in ((32.0, 1.0), (4.0, 1.0), (8.0, 2.0), (64.0, 0.1)):
                scaling = RopeScaling("yarn", factor, trained, beta_fast=fast, beta_slow=slow)
                yield Golden(
                    "yarnRamp", [d, base, trained, fast, slow], yarn_ramp(d, base, scaling)
                )
                for ramp in ("pairs", "turns"):
                    settings: dict[str, Any] = {"ramp": ramp, "beta_fast": fast, "beta_slow": slow}
                    for method in NAMES:
                        changed = method_frequencies(method, d, base, trained, factor, **settings)
                        state = {"d": d, "base": base, "trained": trained, "factor": factor}
                        yield Golden("methodFrequencies", [method, state | settings], changed)
                        yield Golden(
                            "headScores",
                            [theta, changed, distances],
                            head_scores(theta, changed, distances),
                        )
                        yield Golden(
                            "pairsOutOfRange",
                            [theta, changed, trained, factor],
                            pairs_out_of_range(theta, changed, trained, factor),
                        )
