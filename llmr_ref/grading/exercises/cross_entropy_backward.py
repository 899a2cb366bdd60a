"""Exercise: the gradient of the training loss with respect to the logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE


def reference(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    return backprop.cross_entropy_backward(1.0, logits, targets, ignore_index=ignore_index)


exercise = Exercise(
    "cross_entropy_backward",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="backprop-tensors#softmax-and-cross-entropy",
    forbids=AUTOGRAD,
    rule=RULE,
)


def some_ignored(draw: Draw, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """At least one target is ignored and at least one counts; the first one counts."""
    hidden = draw.booleans(*targets.shape)
    hidden.view(-1)[0], hidden.view(-1)[-1] = False, True
    return targets.masked_fill(hidden, ignore_index)


@exercise.property("a logit gets its probability, less 1 if it is the target's", weight=2)
def single(draw: Draw):
    yield Case((torch.tensor([[0.0, 1.1]]), torch.tensor([1])), note="one position, two tokens")
    yield Case((draw.normal(1, 4), draw.integers(1, 3, 1)), note="one position")
    yield Case((draw.normal(1, 6, scale=2), draw.integers(1, 5, 1)), note="one position")
    yield Case((draw.normal(1, 5), torch.tensor([0])), note="token 0 as the target")


@exercise.property("the loss is a mean over all positions of the batch", weight=2)
def means(draw: Draw):
    yield Case((draw.normal(3, 4), torch.tensor([2, 0, 2])), note="three positions")
    yield Case((draw.normal(4, 4), draw.permutation(4)), note="as many positions as tokens")
    yield Case((draw.normal(2, 3, 5), draw.integers(0, 4, 2, 3)), note="a batch")
    n = draw.integer(2, 4)
    yield Case((draw.normal(n, 2, 3, 4), draw.integers(0, 3, n, 2, 3)), note="two batch dimensions")


@exercise.property("an ignored target counts nowhere", weight=2)
def ignored(draw: Draw):
    yield Case((draw.normal(2, 3), torch.tensor([1, -100])), note="the second target ignored")
    targets = some_ignored(draw, draw.integers(0, 4, 2, 4))
    yield Case((draw.normal(2, 4, 5), targets), note="padding in a batch")
    targets = some_ignored(draw, draw.integers(1, 4, 2, 4), ignore_index=0)
    yield Case((draw.normal(2, 4, 5), targets), {"ignore_index": 0}, note="ignore_index=0")
    targets = some_ignored(draw, draw.integers(0, 3, 5), ignore_index=-1)
    yield Case((draw.normal(5, 4), targets), {"ignore_index": -1}, note="ignore_index=-1")


@exercise.property("no target at all gives zeros", weight=0.5)
def nothing(draw: Draw):
    yield Case((draw.normal(2, 3), torch.tensor([-100, -100])), note="every target ignored")
    yield Case((torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), note="no position")


@exercise.property("logits of any size give finite gradients", weight=1)
def large(draw: Draw):
    yield Case((torch.tensor([[0.0, 200.0, 100.0]]), torch.tensor([2])), note="logits up to 200")
    yield Case((draw.normal(3, 4, scale=300), draw.integers(0, 3, 3)), note="logits far apart")


@exercise.property("the result has the dtype of the logits", weight=0.5)
def dtypes(draw: Draw):
    targets = torch.tensor([2, -100, 0])
    yield Case((draw.normal(3, 4, dtype=torch.float64), targets), note="float64 logits")
    yield Case((draw.normal(3, 4, dtype=torch.bfloat16), targets), note="bfloat16 logits")


@exercise.wrong(
    "adds the gradients up instead of taking their mean",
    hint="Your gradients grow with the number of positions. The loss is a mean: by how many "
    "positions is the gradient of each one divided?",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def no_mean(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    return ((torch.softmax(logits, -1) - onehot) * counted[..., None]).to(logits.dtype)


@exercise.wrong(
    "counts ignored targets in the mean",
    hint="An ignored position has no loss, so it is not one of the positions of the mean either. "
    "How many targets are left?",
    see="backprop-tensors#ignored-targets",
)
def divides_by_all(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((P - onehot) * counted[..., None] / max(targets.numel(), 1)).to(logits.dtype)


@exercise.wrong(
    "divides by the number of sequences instead of positions",
    hint="The mean runs over every position of every sequence. Which of these numbers is the length "
    "of the first dimension?",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def divides_by_batch(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((P - onehot) * counted[..., None] / max(len(targets), 1)).to(logits.dtype)


@exercise.wrong(
    "lets an ignored position keep its probabilities as a gradient",
    hint="Where no target counts, nothing of the position may move: not the target's logit and not "
    "the others. What is left in that row of yours?",
    see="backprop-tensors#ignored-targets",
)
def keeps_probabilities(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1]) * counted[..., None]
    return ((torch.softmax(logits, -1) - onehot) / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "counts padding as token 0",
    hint="You replace ignored targets by 0 to be able to index, and then treat them like a true 0. "
    "What must become of those rows afterwards?",
    see="backprop-tensors#ignored-targets",
)
def padding_is_a_token(logits, targets, ignore_index=-100):
    onehot = F.one_hot(targets.where(targets != ignore_index, 0), logits.shape[-1])
    return ((torch.softmax(logits, -1) - onehot) / max(targets.numel(), 1)).to(logits.dtype)


@exercise.wrong(
    "knows -100 only",
    hint="The number that marks an ignored target is an argument. Where does it appear in your code?",
    see="backprop-tensors#ignored-targets",
)
def fixed_index(logits, targets, ignore_index=-100):
    counted = (targets != -100) & (targets >= 0)
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((P - onehot) * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "treats token 0 as padding",
    hint="0 is the number of a token like any other. Only `ignore_index` is left out.",
    see="backprop-tensors#ignored-targets",
)
def skips_zero(logits, targets, ignore_index=-100):
    counted = (targets != ignore_index) & (targets != 0)
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((P - onehot) * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "turns the sign",
    hint="A step against the gradient should raise the target's logit. Which sign must its gradient "
    "have?",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def sign(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((onehot - P) * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "forgets the logit in the numerator",
    hint="Minus the logarithm of the softmax is a logsumexp minus the target's logit. Your result "
    "is the derivative of the first term alone.",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def no_target(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    P = torch.softmax(logits, -1)
    return (P * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "stops at the probabilities",
    hint="-1/p is the derivative of the loss with respect to the probability. One step of the chain "
    "is missing between probabilities and logits.",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def stops_early(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return (-onehot / P * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "subtracts 1 in the target's column of every row",
    hint="`P[:, targets]` is every row crossed with every target. Each row has a target of its own.",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def whole_columns(logits, targets, ignore_index=-100):
    P = torch.softmax(logits, -1).reshape(-1, logits.shape[-1])
    flat = targets.reshape(-1)
    counted = flat != ignore_index
    P[:, flat[counted]] -= 1
    return (P * counted[:, None] / counted.sum().clamp(min=1)).reshape(logits.shape).to(logits)


@exercise.wrong(
    "exponentiates large logits as they are",
    hint="The exponential of 89 is infinite in float32. What can you take from all logits of a row "
    "without changing a probability?",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def overflows(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return ((P - onehot) * counted[..., None] / counted.sum().clamp(min=1)).to(logits.dtype)


@exercise.wrong(
    "divides by zero when nothing counts",
    hint="Batches of padding alone occur. What is 0 divided by 0, and what should such a batch "
    "teach?",
    see="backprop-tensors#ignored-targets",
)
def divides_by_zero(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits, -1)
    return ((P - onehot) * counted[..., None] / counted.sum()).to(logits.dtype)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="The gradient of 16-bit or 64-bit logits has their dtype. What is the last thing to do?",
    see="backprop-tensors#softmax-and-cross-entropy",
)
def to_float32(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    P = torch.softmax(logits.float(), -1)
    return (P - onehot) * counted[..., None] / counted.sum().clamp(min=1)


@exercise.right("probabilities minus one-hot targets")
def minus_onehot(logits, targets, ignore_index=-100):
    counted = targets != ignore_index
    onehot = F.one_hot(targets.where(counted, 0), logits.shape[-1])
    dz = torch.softmax(logits, dim=-1) - onehot
    return dz * counted[..., None] / counted.sum().clamp(min=1)


@exercise.right("only the rows that count, scattered back")
def only_counted(logits, targets, ignore_index=-100):
    out = torch.zeros_like(logits)
    counted = targets != ignore_index
    n = int(counted.sum())
    if n == 0:
        return out
    z, t = logits[counted].double(), targets[counted]
    e = (z - z.amax(-1, keepdim=True)).exp()
    P = e / e.sum(-1, keepdim=True)
    P[torch.arange(n), t] -= 1
    out[counted] = (P / n).to(logits.dtype)
    return out


@exercise.right("one position after the other")
def position_by_position(logits, targets, ignore_index=-100):
    rows, flat = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).tolist()
    n = sum(t != ignore_index for t in flat)
    gradients = []
    for z, t in zip(rows.float() if logits.dtype == torch.bfloat16 else rows, flat, strict=True):
        if t == ignore_index:
            gradients.append(torch.zeros_like(z))
            continue
        p = (z - torch.logsumexp(z, 0)).exp()
        p[t] = p[t] - 1
        gradients.append(p / n)
    if not gradients:
        return torch.zeros_like(logits)
    return torch.stack(gradients).reshape(logits.shape).to(logits.dtype)


@exercise.shortcut("torch's cross-entropy, differentiated by torch")
def torch_backward(logits, targets, ignore_index=-100):
    z = logits.clone().requires_grad_()
    if not bool((targets != ignore_index).any()):
        return torch.zeros_like(logits)
    loss = F.cross_entropy(
        z.reshape(-1, z.shape[-1]), targets.reshape(-1), ignore_index=ignore_index
    )
    loss.backward()
    return z.grad


exercise.equivalent(
    "targets.where(counted, 0) -> targets.where(counted, 1)",
    because="the rows of ignored targets are multiplied by 0",
)
