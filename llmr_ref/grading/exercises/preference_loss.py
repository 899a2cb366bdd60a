"""Exercise: the loss of a reward model, from pairs of answers (Bradley and Terry)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import posttraining
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(chosen: Tensor, rejected: Tensor) -> Tensor:
    return posttraining.preference_loss(chosen, rejected)


exercise = Exercise(
    "preference_loss",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="post-training#a-reward-model-from-comparisons",
)


@exercise.property("the loss is the mean of -log sigma(r_chosen - r_rejected)", weight=2)
def pairs(draw: Draw):
    yield Case((torch.tensor([1.5]), torch.tensor([0.25])), note="one pair in the right order")
    yield Case((torch.tensor([-0.75]), torch.tensor([0.5])), note="one pair in the wrong order")
    yield Case((draw.normal(5), draw.normal(5)), note="five pairs")
    yield Case((draw.normal(2, 3, scale=2), draw.normal(2, 3)), note="a batch of groups")


@exercise.property("rewards that differ by a lot keep the loss finite and exact")
def far_apart(draw: Draw):
    good, bad = torch.tensor([20.0, -150.0]), torch.tensor([-20.0, 150.0])
    yield Case((good[1:], bad[1:]), note="a pair that is ordered badly wrong")
    yield Case((good, bad), note="two pairs far apart")
    yield Case((torch.tensor([300.0, 301.0]), torch.tensor([301.0, 300.0])), note="large rewards")


@exercise.property("one reward added to all answers changes nothing")
def shift(draw: Draw):
    chosen, rejected = draw.normal(4), draw.normal(4)
    yield Case((chosen + 7, rejected + 7), note="7 added to all rewards")
    yield Case((chosen - 50, rejected - 50), note="50 taken from all rewards")


@exercise.property("gradients reach both rewards of a pair, even one that is far off")
def gradients(draw: Draw):
    one = torch.tensor([-0.5]), torch.tensor([0.75])
    yield Case(one, gradients=True, note="the gradients of one pair")
    yield Case((draw.normal(3), draw.normal(3)), gradients=True, note="gradients")
    far = torch.tensor([-120.0, 3.0]), torch.tensor([0.0, 1.0])
    yield Case(far, gradients=True, note="the gradients of a pair far off")


@exercise.property("16-bit rewards give a loss in float32", weight=0.5)
def dtypes(draw: Draw):
    half = torch.bfloat16
    yield Case((draw.normal(6, dtype=half), draw.normal(6, dtype=half)), tolerance=1e-4)


@exercise.wrong(
    "prefers the answer that people rejected",
    hint="Your loss falls when the rejected answer gets the larger reward. Which of the two comes "
    "first in the difference?",
    see="post-training#a-reward-model-from-comparisons",
)
def reversed_pairs(chosen, rejected):
    return -F.logsigmoid(rejected.float() - chosen.float()).mean()


@exercise.wrong(
    "gives the probability, not its negative logarithm",
    hint="sigma of the difference says how likely the preference is. What makes a loss of a "
    "probability?",
    see="post-training#a-reward-model-from-comparisons",
)
def probability(chosen, rejected):
    return torch.sigmoid(chosen.float() - rejected.float()).mean()


@exercise.wrong(
    "leaves out the minus",
    hint="A logarithm of a probability is never positive, a loss never negative. Minimising yours "
    "makes the preferences less likely.",
    see="post-training#a-reward-model-from-comparisons",
)
def no_minus(chosen, rejected):
    return F.logsigmoid(chosen.float() - rejected.float()).mean()


@exercise.wrong(
    "takes the logarithm of a sigmoid that has become 0",
    hint="Far below 0 the sigmoid rounds to 0, and its logarithm is minus infinity. torch has both "
    "in one stable function.",
    see="post-training#far-apart",
)
def unstable(chosen, rejected):
    return -torch.sigmoid(chosen.float() - rejected.float()).log().mean()


@exercise.wrong(
    "adds a small number inside the logarithm",
    hint="The small number keeps the loss finite, but a pair that is badly wrong now has a loss "
    "that no longer grows, and no gradient. Find a form that needs no such number.",
    see="post-training#far-apart",
)
def epsilon_inside(chosen, rejected):
    return -(torch.sigmoid(chosen.float() - rejected.float()) + 1e-8).log().mean()


@exercise.wrong(
    "adds the pairs up",
    hint="Twice as many pairs double your loss. The formula has an expectation over pairs.",
    see="post-training#a-reward-model-from-comparisons",
)
def sums(chosen, rejected):
    return -F.logsigmoid(chosen.float() - rejected.float()).sum()


@exercise.wrong(
    "judges each reward alone",
    hint="You push one reward above 0 and the other below it. People only said which is better: "
    "what single number of the two should the loss depend on?",
    see="post-training#only-differences",
)
def judged_alone(chosen, rejected):
    chosen, rejected = chosen.float(), rejected.float()
    return -(F.logsigmoid(chosen) + F.logsigmoid(-rejected)).mean()


@exercise.wrong(
    "compares the mean rewards",
    hint="You average first and compare then, so one clear pair hides a wrong one. The loss belongs "
    "to each pair; average it last.",
    see="post-training#a-reward-model-from-comparisons",
)
def means_first(chosen, rejected):
    return -F.logsigmoid(chosen.float().mean() - rejected.float().mean())


@exercise.wrong(
    "takes a hinge for the sigmoid",
    hint="Your loss is 0 beyond a margin and straight before it. The model of Bradley and Terry "
    "says how likely a preference is; that curve is smooth.",
    see="post-training#a-reward-model-from-comparisons",
)
def hinge(chosen, rejected):
    return (1 - (chosen.float() - rejected.float())).clamp(min=0).mean()


@exercise.wrong(
    "holds the rejected reward fixed",
    hint="The value is right, but half of the gradient is missing: the rejected answer's reward "
    "should fall as well. Where does the graph end?",
    see="post-training#a-reward-model-from-comparisons",
)
def rejected_detached(chosen, rejected):
    return -F.logsigmoid(chosen.float() - rejected.detach().float()).mean()


@exercise.wrong(
    "gives a loss for each pair",
    hint="Training needs one number. What is still to be done with the pairs?",
    see="post-training#a-reward-model-from-comparisons",
)
def not_averaged(chosen, rejected):
    return -F.logsigmoid(chosen.float() - rejected.float())


@exercise.wrong(
    "computes in 16 bits",
    hint="Rewards in bfloat16 have three digits, and your loss keeps no more. Convert before you "
    "subtract.",
    see="post-training#far-apart",
)
def stays_in_16_bits(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).mean()


@exercise.right("logsigmoid")
def log_sigmoid(chosen, rejected):
    return -F.logsigmoid(chosen.float() - rejected).mean()


@exercise.right("softplus of the difference turned round")
def softplus(chosen, rejected):
    return F.softplus(rejected.float() - chosen.float()).mean()


@exercise.right("a softmax over the two answers whose first one is right")
def two_classes(chosen, rejected):
    both = torch.stack((chosen, rejected), dim=-1).float()
    return -both.log_softmax(-1)[..., 0].mean()


@exercise.right("logaddexp with 0")
def log_add_exp(chosen, rejected):
    gap = rejected.float() - chosen.float()
    return torch.logaddexp(gap, torch.zeros_like(gap)).mean()
