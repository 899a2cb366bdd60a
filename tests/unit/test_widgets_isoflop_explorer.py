"""The IsoFLOP explorer in Python: laws as one form, bad arguments, the numbers of the chapter."""

import re
from typing import Any

import pytest
import traitlets

from llmr_ref.scaling import PUBLISHED, ChinchillaLaw
from llmr_ref.widgets import IsoflopExplorer
from llmr_ref.widgets.isoflop_explorer import LAWS, cheapest, constants

BUDGET = 6 * 70e9 * 1.4e12


@pytest.mark.parametrize("name", LAWS)
def test_every_law_has_the_one_form(name: str) -> None:
    law = PUBLISHED[name].law
    assert not isinstance(law, dict)
    c = constants(law, "", "")  # type: ignore[arg-type]
    for N, D in ((1e8, 1e10), (70e9, 1.4e12)):
        inside = c["E"] + c["A"] * N ** -c["alpha"] + c["B"] * D ** -c["beta"]
        assert inside ** c["power"] == pytest.approx(law(N, D))  # type: ignore[call-arg]


def test_the_first_picture_is_chinchilla_by_the_newer_fit() -> None:
    widget = IsoflopExplorer()
    budget = widget.C
    assert budget == pytest.approx(BUDGET)
    assert "trains 7e+10 parameters on 1.4e+12 tokens" in widget.description()
    assert "its loss is 1.974" in widget.description()


def test_the_best_division_is_the_cheapest_way_to_its_loss() -> None:
    for law in (PUBLISHED["chinchilla"].law, PUBLISHED["kaplan"].law):
        assert not isinstance(law, dict) and hasattr(law, "optimal")
        N, D = law.optimal(1e21)
        assert cheapest(law, law(N, D)) == pytest.approx(1e21)
        assert cheapest(law, law(3 * N, D / 3)) < 1e21


def test_a_law_of_ones_own() -> None:
    widget = IsoflopExplorer(ChinchillaLaw(1.0, 2.0, 8.0, 0.5, 0.25), C=1e18, N=1e8)
    assert widget.law == "own"
    assert "'your law'" in widget.description()
    widget.law = "kaplan"
    assert "'Kaplan'" in widget.description()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"law": "moore"}, "there is no law 'moore'"),
        ({"N": 1}, "N must lie in 100000.0..1000000000000000.0, got 1.0"),
        ({"C": float("inf")}, "C must lie in"),
        ({"D": 3}, "there is no D"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        IsoflopExplorer(**arguments)


def test_an_unknown_law_is_refused_and_forgotten() -> None:
    widget = IsoflopExplorer()
    with pytest.raises(ValueError, match="law is 'moore'"):
        widget.law = "moore"
    assert widget.law == "chinchilla-refit"
