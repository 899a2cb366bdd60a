"""The IsoFLOP explorer: one budget of FLOPs, and every way to divide it between parameters and tokens.

>>> IsoflopExplorer()  # Chinchilla's budget and size, by the newer fit
>>> IsoflopExplorer("kaplan", N=175e9, C=3.15e23)
>>> IsoflopExplorer(fit_chinchilla(runs).law, C=1e19)  # a law of your own
"""

from collections.abc import Iterator
from typing import Any

import traitlets

from llmr_ref.scaling import PUBLISHED, ChinchillaLaw, KaplanLaw
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import lines_picture

LAWS = {
    "chinchilla-refit": "Chinchilla, fitted again",
    "chinchilla": "Chinchilla, as printed",
    "chinchilla-unrounded": "Chinchilla, unrounded",
    "kaplan": "Kaplan",
}
RANGES = {"N": (1e5, 1e15), "C": (1e15, 1e30)}


def constants(law: ChinchillaLaw | KaplanLaw, name: str, source: str) -> dict[str, Any]:
    """A law as L = (E + A / N^alpha + B / D^beta)^power."""
    power, inner = (1.0, law) if isinstance(law, ChinchillaLaw) else (law.alpha_D, law.inner)
    return {
        "name": name,
        "source": source,
        "E": inner.E,
        "A": inner.A,
        "B": inner.B,
        "alpha": inner.alpha,
        "beta": inner.beta,
        "power": power,
    }


class IsoflopExplorer(EmbeddableWidget):
    """Loss against parameters for fixed budgets, the valleys' bottoms, and the best size for each budget.

    law: a name of LAWS, or a ChinchillaLaw or KaplanLaw ("own"). N: parameters; C: FLOPs; D = C / (6 N).

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("isoflop_explorer")

    law = traitlets.Unicode("chinchilla-refit").tag(sync=True)
    N = traitlets.Float(70e9).tag(sync=True)
    C = traitlets.Float(5.88e23).tag(sync=True)
    laws = traitlets.Dict().tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(
                ChinchillaLaw.__call__,
                begin="return self.E",
                floor="return self.E",
                model="return self.E",
                text="return self.E",
            ),
            *code_lines(
                ChinchillaLaw.optimal, begin="ratio =", budget="pairs = C", best="return G * pairs"
            ),
        ]
    ).tag(sync=True)

    def __init__(
        self, law: str | ChinchillaLaw | KaplanLaw = "chinchilla-refit", **state: Any
    ) -> None:
        unknown = state.keys() - RANGES.keys()
        if unknown:
            raise TypeError(f"there is no {', '.join(sorted(unknown))}")
        self._laws: dict[str, ChinchillaLaw | KaplanLaw] = {}
        laws = {}
        for name, title in LAWS.items():
            published = PUBLISHED[name]
            assert isinstance(published.law, ChinchillaLaw | KaplanLaw)
            self._laws[name] = published.law
            laws[name] = constants(published.law, title, published.source)
        if isinstance(law, ChinchillaLaw | KaplanLaw):
            self._laws["own"] = law
            laws["own"] = constants(law, "your law", "Your own constants")
            law = "own"
        if law not in laws:
            raise ValueError(f"there is no law {law!r}; choose one of {', '.join(LAWS)}")
        super().__init__(laws=laws, law=law, **{k: float(v) for k, v in state.items()})

    @traitlets.validate(*RANGES)
    def _check_number(self, proposal: Any) -> float:
        name = proposal["trait"].name
        value: float = within(name, proposal["value"], *RANGES[name])
        return value

    @traitlets.validate("law")
    def _check_law(self, proposal: Any) -> str:
        if proposal["value"] not in self.laws:
            raise StateError(f"law is {proposal['value']!r}; choose one of {', '.join(self.laws)}")
        return proposal["value"]

    def description(self) -> str:
        law = self._laws[self.law]
        D = self.C / 6 / self.N
        best_N, best_D = law.optimal(self.C)
        return (
            f"A budget of {self.C:.3g} FLOPs trains {self.N:.3g} parameters on {D:.3g} tokens. By the law "
            f"{self.laws[self.law]['name']!r} its loss is {law(self.N, D):.3f}; the best is "
            f"{law(best_N, best_D):.3f} with {best_N:.3g} parameters on {best_D:.3g} tokens."
        )

    def picture(self) -> str:
        law = self._laws[self.law]
        series = []
        for C in (self.C / 100, self.C, self.C * 100):
            best, _ = law.optimal(C)
            sizes = [best * 10 ** (k / 10) for k in range(-12, 13)]
            losses = [float(law(n, C / 6 / n)) for n in sizes]
            series.append((f"C = {C:.2g} FLOPs", sizes, losses))
        return lines_picture(
            "Loss against parameters for three budgets",
            series,
            x_label="parameters N",
            y_label="loss, nats a token",
            log_x=True,
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        own = ChinchillaLaw(E=1.0, A=2.0, B=8.0, alpha=0.5, beta=0.25)
        for law in (own, *cls()._laws.values()):
            shown = constants(law, "", "")
            for C in (1e18, 5.88e23, 1e27):
                N, D = law.optimal(C)
                yield Golden("optimal", [shown, C], {"N": N, "D": D})
                for factor in (0.01, 1.0, 30.0):
                    n, d = factor * N, D / factor
                    value = law(n, d)
                    yield Golden("loss", [shown, n, d], value)
                    yield Golden("tokensToReach", [shown, value, n], law.tokens_to_reach(value, n))
                    yield Golden("cheapest", [shown, n, d], cheapest(law, value))
            hopeless = law.tokens_to_reach(law(1e9, 1e60) * 0.99, 1e9)
            assert hopeless == float("inf")
            yield Golden("tokensToReach", [shown, law(1e9, 1e60) * 0.99, 1e9], 0)


def cheapest(law: ChinchillaLaw | KaplanLaw, loss: float) -> float:
    """The smallest budget whose best loss is this one, by bisection."""
    low, high = 1.0, 1e60
    for _ in range(400):
        middle = (low * high) ** 0.5
        if law(*law.optimal(middle)) > loss:
            low = middle
        else:
            high = middle
    return high
