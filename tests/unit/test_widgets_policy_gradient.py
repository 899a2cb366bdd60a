"""The policy of three tokens in Python: bad arguments, and the numbers of the chapter."""

import re
from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.policy_gradient import expected_reward_gradient
from llmr_ref.posttraining import optimal_policy
from llmr_ref.widgets import PolicyGradient
from llmr_ref.widgets.policy_gradient import average_over_groups, exact_run, objective_gradient

Z = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
R = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)


def test_baselines_change_the_scatter_and_not_the_average() -> None:
    exact = expected_reward_gradient(Z, R)
    high = average_over_groups(Z, R + 10, 1, "none")
    torch.testing.assert_close(high["mean"], exact)
    assert high["variance"] == pytest.approx(67.26, abs=0.005)
    mean = average_over_groups(Z, R + 10, 1, "expected")
    torch.testing.assert_close(mean["mean"], exact)
    assert mean["variance"] == pytest.approx(0.04, abs=0.005)


def test_the_groups_mean_shortens_and_leaving_one_out_mends_it() -> None:
    exact = expected_reward_gradient(Z, R)
    for G in (2, 3):
        torch.testing.assert_close(
            average_over_groups(Z, R, G, "mean")["mean"], exact * (G - 1) / G
        )
        torch.testing.assert_close(average_over_groups(Z, R, G, "leave one out")["mean"], exact)


def test_the_run_ends_at_the_best_policy_for_the_price_of_a_nat() -> None:
    end = exact_run(Z, R, beta=0.5, rate=2.0, epochs=1, steps=400)[-1]
    torch.testing.assert_close(
        end.log_softmax(-1), optimal_policy(Z.log_softmax(-1), R, beta=0.5), atol=1e-6, rtol=0
    )
    assert objective_gradient(end, R, Z, 0.5).abs().max() < 1e-6


def test_the_words_follow_the_state() -> None:
    assert "0.506, 0.307, 0.186" in PolicyGradient().description()
    assert "after 5 exact steps" in PolicyGradient(step=5).description()
    assert PolicyGradient(rewards=(2, 2, 2)).rewards == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": [1, 2]}, "rewards must be three numbers up to 100"),
        ({"start": [1, 2, 99]}, "start must be three numbers up to 12"),
        ({"start": [1, 2, float("nan")]}, "start must be three numbers"),
        ({"group": 0}, "group must lie in 1..64, got 0"),
        ({"group": 1, "baseline": "mean"}, "'mean' needs a group of 2 or more, got 1"),
        ({"baseline": "best"}, "baseline"),
        ({"beta": -1}, "beta must lie in 0..5"),
        ({"step": 61}, "step must lie in 0..60"),
        ({"speed": 1}, "there is no speed"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        PolicyGradient(**arguments)
