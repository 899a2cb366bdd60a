"""No matter of security: what breaks a rule of the exercise, recorded as something to look at.

Nobody can stop a right answer from being copied, so the suite records what happens and claims no more.
"""

from llmr_ref.grading.attack import attack


@attack(
    "raise", "The built-in that the exercise asks to build is called under another name.", look=True
)
def forbidden_alias(hand):
    hand.answer(
        "softmax",
        """
        import torch

        borrowed = getattr(torch, "soft" + "max")

        def NAME(x, dim=-1):
            return borrowed(x, dim)
        """,
    )


@attack("raise", "The built-in is called plainly.", look=True)
def forbidden_builtin(hand):
    hand.answer(
        "softmax",
        """
        import torch.nn.functional as F

        def NAME(x, dim=-1):
            return F.softmax(x, dim=dim)
        """,
    )


@attack(
    "raise",
    "The built-in is reached past torch's own bookkeeping, through its operators.",
    look=True,
)
def forbidden_operator(hand):
    hand.answer(
        "softmax",
        """
        import torch

        def NAME(x, dim=-1):
            return torch.ops.aten._softmax(x, dim, False)
        """,
    )


@attack("raise", "The course's own solution, with other names for everything in it.", look=True)
def reference_copied(hand):
    hand.answer(
        "softmax",
        """
        def normalised_weights(scores, axis):
            shifted = scores - scores.amax(dim=axis, keepdim=True)
            powers = shifted.exp()
            return powers / powers.sum(dim=axis, keepdim=True)

        NAME = lambda x, dim=-1: normalised_weights(x, dim)
        """,
    )


@attack(
    "raise",
    "Practice is told from grading by counting calls, and only grading is answered wrong.",
    look=True,
)
def grading_detected(hand):
    hand.answer(
        "softmax",
        """
        import sys

        calls = []

        def NAME(x, dim=-1):
            calls.append(1)
            e = (x - x.amax(dim, keepdim=True)).exp()
            right = e / e.sum(dim, keepdim=True)
            return right if len(calls) < 16 else right * 0
        """,
    )
