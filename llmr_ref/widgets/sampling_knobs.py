"""The sampling knobs: one next-token distribution, every way of drawing from it, and the draws.

>>> SamplingKnobs()  # eight words, as on L4's slide
>>> SamplingKnobs("die", temperature=0.7, top_k=40)  # L3's die: 50,257 sides
>>> SamplingKnobs(tokens=["a", "b"], logits=[1.0, 0.0])
>>> SamplingKnobs(sampler=my_sampling_distribution)  # a student's function over the reference
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref import sampling
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import bars_picture

DIE_SIDES = 50_257  # L3 "Generating new tokens"
SLIDE_TOKENS = ("mat", "sofa", "floor", "bed", "roof", "table", "piano", "moon")
SLIDE_PROBABILITIES = (0.35, 0.22, 0.15, 0.10, 0.07, 0.05, 0.04, 0.02)
ROWS = 12  # drawn one by one; the rest is one row


def slide_logits() -> Float[Tensor, " 8"]:
    """Logits whose softmax is SLIDE_PROBABILITIES, two decimals; L4's slide prints no numbers."""
    return torch.tensor([round(math.log(p), 2) for p in SLIDE_PROBABILITIES], dtype=torch.float64)


def die_logits(n: int = DIE_SIDES) -> Float[Tensor, " n"]:
    """A die with as many sides as GPT-2's vocabulary: the shifted power law of word counts, rank by rank."""
    rank = torch.arange(n, dtype=torch.float64)
    return -1.1 * (rank + 2.7).log() + 0.3 * (2.3 * rank).sin()


class SamplingKnobs(StudentsWidget):
    """Greedy, temperature, top-k, top-p, min-p and repetition penalty on one distribution.

    source: "slide" (eight words) or "die" (50,257 sides); `tokens` and `logits` give a distribution of
    your own, up to 64 tokens. top_k = 0, top_p = 1, min_p = 0 and repetition_penalty = 1 leave a step out.
    occurred: the ids of tokens that the text already holds. n_draws tokens are drawn with `seed`.
    sampler: a student's function (logits, temperature, top_k, top_p, min_p) -> probabilities, with None for
    a step that is left out; it is asked for every state (source "die" too) and drawn over the reference.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("sampling_knobs")

    source = traitlets.Enum(("slide", "die", "own"), "slide").tag(sync=True)
    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    logits = traitlets.List(traitlets.Float()).tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)
    top_k = traitlets.Int(0).tag(sync=True)
    top_p = traitlets.Float(1.0).tag(sync=True)
    min_p = traitlets.Float(0.0).tag(sync=True)
    repetition_penalty = traitlets.Float(1.0).tag(sync=True)
    occurred = traitlets.List(traitlets.Int()).tag(sync=True)
    n_draws = traitlets.Int(1000).tag(sync=True)
    seed = traitlets.Int(1).tag(sync=True)
    code = traitlets.List(
        code_lines(
            sampling.distribution,
            begin="scores = logits.to",
            penalty="scores = penalize_repetition",
            temperature="scores = (scores - scores.amax",
            top_k="_keep_top_k(scores, top_k)",
            top_p="_keep_top_p(scores, top_p)",
            min_p="_keep_min_p(scores, min_p)",
            softmax="return scores.softmax",
        )
    ).tag(sync=True)

    def __init__(
        self,
        source: str = "slide",
        *,
        tokens: Sequence[str] | None = None,
        logits: Sequence[float] | Tensor | None = None,
        sampler: Callable[..., Any] | None = None,
        **knobs: Any,
    ) -> None:
        if sampler is not None and not callable(sampler):
            raise TypeError(f"sampler must be callable, got {type(sampler).__name__}")
        if (tokens is None) != (logits is None):
            raise ValueError("tokens and logits describe a distribution together: give both")
        self._sampler: Callable[..., Any] | None = None  # asks nothing until the state is whole
        if tokens is not None and logits is not None:
            values = [float(value) for value in logits]
            if not 2 <= len(values) <= 64 or len(values) != len(tokens):
                raise ValueError(
                    f"need 2 to 64 tokens with a logit each, got {len(tokens)} and {len(values)}"
                )
            knobs |= {"source": "own", "tokens": [str(t) for t in tokens], "logits": values}
        else:
            knobs |= {"source": source}
        super().__init__(**knobs)
        self._sampler = sampler
        self._call_sampler()

    @traitlets.validate("source")
    def _check_source(self, proposal: Any) -> str:
        if proposal["value"] == "own" and not self.logits:
            raise StateError('source "own" needs tokens and logits')
        return proposal["value"]

    @traitlets.validate("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "n_draws")
    def _check_knob(self, proposal: Any) -> Any:
        low, high = {
            "temperature": (0, 10),
            "top_k": (0, DIE_SIDES),
            "top_p": (0.01, 1),
            "min_p": (0, 1),
            "repetition_penalty": (1, 2),
            "n_draws": (1, 100_000),
        }[proposal["trait"].name]
        return within(proposal["trait"].name, proposal["value"], low, high)

    @traitlets.validate("logits")
    def _check_logits(self, proposal: Any) -> list[float]:
        if not all(math.isfinite(value) for value in proposal["value"]):
            raise StateError(f"logits must be finite, got {proposal['value']}")
        return proposal["value"]

    def scores(self) -> Float[Tensor, " V"]:
        """The logits of the present source, before any step."""
        if self.source == "own":
            return torch.tensor(self.logits, dtype=torch.float64)
        return slide_logits() if self.source == "slide" else die_logits()

    def names(self) -> list[str]:
        """The first tokens by name."""
        if self.source == "own":
            return list(self.tokens)
        return (
            list(SLIDE_TOKENS) if self.source == "slide" else [f"side {i + 1}" for i in range(64)]
        )

    def _settings(self, V: int) -> dict[str, Any]:
        """As the functions take them: None for a step that is left out."""
        return {
            "temperature": self.temperature,
            "top_k": min(self.top_k, V) or None,
            "top_p": self.top_p if self.top_p < 1 else None,
            "min_p": self.min_p or None,
        }

    def probabilities(self) -> Float[Tensor, " V"]:
        """The reference's distribution for the present state."""
        logits = self.scores()
        return sampling.distribution(self._penalized(logits), **self._settings(len(logits)))

    def _penalized(self, logits: Tensor) -> Tensor:
        ids = torch.tensor([i for i in self.occurred if i < len(logits)], dtype=torch.long)
        return sampling.penalize_repetition(logits, ids, self.repetition_penalty)

    _STATE = ("source", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "occurred")

    @traitlets.observe(*_STATE)
    def _call_sampler(self, change: Any = None) -> None:
        """Send the student's first probabilities for the present state, or the error."""
        if self._sampler is not None:
            self._ask_about(self._STATE, self._checked)

    def _checked(self) -> dict[str, Any]:
        assert self._sampler is not None
        logits = self._penalized(self.scores()).float()
        settings = self._settings(len(logits))
        answer = torch.as_tensor(self._sampler(logits.clone(), **settings)).detach().double()
        if answer.shape != logits.shape:
            raise ValueError(
                f"it must return the shape of logits, {tuple(logits.shape)}, got {tuple(answer.shape)}"
            )
        if not bool(answer.isfinite().all()):
            raise ValueError("it returned probabilities that are not finite")
        apart = (answer - self.probabilities()).abs()
        worst = int(apart.argmax())
        return {
            "probabilities": answer[:64].tolist(),
            "sum": float(answer.sum()),
            "worst": worst,
            "difference": float(apart[worst]),
        }

    def description(self) -> str:
        p = self.probabilities()
        steps = [
            f"repetition penalty {self.repetition_penalty:g}" if self.occurred else "",
            "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}",
            f"top-k {self.top_k}" if self.top_k else "",
            f"top-p {self.top_p:g}" if self.top_p < 1 else "",
            f"min-p {self.min_p:g}" if self.min_p else "",
        ]
        entropy = float(torch.special.entr(p).sum())
        return (
            f"The next-token distribution after {', '.join(step for step in steps if step)}: "
            f"{int((p > 0).sum())} of {len(p)} tokens can be drawn, entropy {entropy:.3f} nats."
        )

    def picture(self) -> str:
        before, after = self.scores().softmax(-1), self.probabilities()
        order = before.argsort(descending=True, stable=True)[:ROWS].tolist()
        names = self.names()
        return bars_picture(
            "Probabilities after the knobs; outlined: before",
            [(names[i], float(after[i]), f"{after[i]:.3f}") for i in order],
            ghosts=[float(before[i]) for i in order],
            off=[float(after[i]) == 0 for i in order],
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        yield Golden("slideLogits", [], slide_logits())
        yield Golden("dieLogits", [500], die_logits(500))
        generator = torch.Generator().manual_seed(5)
        rough = (3 * torch.randn(300, generator=generator)).double()
        ties = torch.tensor([1.0, 0.0, 1.0, 1.0, -2.0], dtype=torch.float64)
        occurred = [0, 3, 4]
        for logits in (slide_logits(), rough, ties):
            for settings in (
                {},
                {"temperature": 0.0},
                {"temperature": 0.5},
                {"temperature": 2.0},
                {"temperature": 1e-3},
                {"top_k": 3},
                {"top_k": 1},
                {"top_k": 10**6},
                {"top_p": 0.8},
                {"top_p": 0.05},
                {"top_p": 0.9999},
                {"min_p": 0.3},
                {"min_p": 1.0},
                {"temperature": 0.5, "top_k": 4, "top_p": 0.8, "min_p": 0.2},
                {"temperature": 1.7, "repetition_penalty": 1.5, "top_p": 0.7},
                {"repetition_penalty": 2.0, "top_k": 2},
            ):
                reference: dict[str, Any] = dict(settings)
                if "top_k" in settings:
                    reference["top_k"] = min(int(settings["top_k"]), len(logits))
                if "repetition_penalty" in settings:
                    reference["previous"] = torch.tensor(occurred)
                p = sampling.distribution(logits, **reference)
                yield Golden(
                    "distribution",
                    [logits, {**settings, "occurred": occurred}],
                    {
                        "probabilities": p,
                        "entropy": torch.special.entr(p).sum(),
                        "left": int((p > 0).sum()),
                    },
                )
