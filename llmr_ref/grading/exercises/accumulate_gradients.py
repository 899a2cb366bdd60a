"""Exercise: the gradient of a large batch, computed in parts that fit into memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmr_ref.data import IGNORE
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.training import cross_entropy


def accumulate_gradients(model: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> float:
    """As `trainer.Trainer.step` weights its parts: by their targets."""
    model.zero_grad()
    n_targets = sum(int((targets != IGNORE).sum()) for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        loss = cross_entropy(model(inputs), targets, reduction="sum") / n_targets
        loss.backward()
        total += loss.item()
    return total


exercise = Exercise(
    "accumulate_gradients",
    points=4,
    difficulty=3,
    minutes=20,
    reference=accumulate_gradients,
    chapter="training-a-language-model#accumulation",
)


@exercise.driver
def gradients(accumulate_gradients, table, parts, before=0.0):
    """A model that looks the logits up in a table: the loss, the gradient, the rows of each forward."""

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(table.clone())
            self.rows = []

        def forward(self, ids):  # (B, T) -> (B, T, V)
            self.rows.append(len(ids))
            return self.table[ids]

    model = Table()
    if before:
        model.table.grad = torch.full_like(table, before)
    loss = accumulate_gradients(model, parts)
    return {"loss": loss, "gradient": model.table.grad, "rows of each forward": model.rows}


def batch(draw: Draw, B: int, T: int, V: int, targets: int | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T); with `targets`, all but the first few of them are ignored."""
    y = draw.integers(0, V - 1, B, T)
    if targets is not None:
        y = y.masked_fill(torch.arange(B * T).view(B, T) >= targets, -100)
    return draw.integers(0, V - 1, B, T), y


def table(draw: Draw, V: int) -> Tensor:
    return draw.normal(V, V, scale=1.5)


@exercise.property("one part gives the gradient and the loss of an ordinary step", weight=2)
def one_part(draw: Draw):
    yield Case(
        (table(draw, 2), [(torch.tensor([[0]]), torch.tensor([[1]]))]),
        note="one target",
        tolerance=1e-5,
    )
    yield Case((table(draw, 4), [batch(draw, 2, 3, 4)]), note="one part", tolerance=1e-5)
    yield Case(
        (table(draw, 5), [batch(draw, 3, 4, 5, targets=draw.integer(5, 9))]),
        note="padding",
        tolerance=1e-5,
    )


@exercise.property("parts of one size give the gradient of the whole batch", weight=1.5)
def equal(draw: Draw):
    yield Case(
        (table(draw, 3), [batch(draw, 1, 2, 3), batch(draw, 1, 2, 3)]),
        note="two parts",
        tolerance=1e-5,
    )
    parts = [batch(draw, 2, 3, 5) for _ in range(draw.integer(3, 5))]
    yield Case((table(draw, 5), parts), note="several parts", tolerance=1e-5)


@exercise.property("parts with unequal numbers of targets are weighted by them", weight=2.5)
def unequal(draw: Draw):
    parts = [batch(draw, 1, 3, 3), batch(draw, 1, 3, 3, targets=1)]
    yield Case((table(draw, 3), parts), note="parts with 3 targets and 1", tolerance=1e-5)
    parts = [batch(draw, 2, 4, 4, targets=n) for n in (8, 2, draw.integer(3, 6))]
    yield Case((table(draw, 4), parts), note="parts with padding", tolerance=1e-5)
    parts = [batch(draw, 3, 2, 4), batch(draw, 1, 2, 4), batch(draw, 2, 5, 4, targets=7)]
    yield Case((table(draw, 4), parts), note="parts of different shapes", tolerance=1e-5)
    parts = [batch(draw, 1, 3, 4, targets=0), batch(draw, 2, 3, 4, targets=5)]
    yield Case((table(draw, 4), parts), note="a part without any target", tolerance=1e-5)


@exercise.property("gradients of an earlier step are gone")
def earlier(draw: Draw):
    yield Case(
        (table(draw, 3), [batch(draw, 1, 2, 3)]),
        {"before": 1.0},
        note="an old gradient",
        tolerance=1e-5,
    )
    parts = [batch(draw, 2, 3, 4, targets=5), batch(draw, 2, 3, 4)]
    yield Case((table(draw, 4), parts), {"before": 0.5}, note="an old gradient", tolerance=1e-5)


@exercise.wrong(
    "takes the mean of the parts' means",
    hint="A part with one target pulls as hard as a part with eight. In the whole batch every target"
    " weighs the same. Which number do all parts have to share?",
    see="training-a-language-model#accumulation",
)
def mean_of_means(model, parts):
    model.zero_grad()
    total = 0.0
    for inputs, targets in parts:
        if not (targets != -100).any():
            continue
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()) / len(parts)
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "adds up the parts' means",
    hint="With two equal parts your gradient is twice that of the whole batch. By what has each part"
    " to be divided?",
    see="training-a-language-model#accumulation",
)
def sum_of_means(model, parts):
    model.zero_grad()
    total = 0.0
    for inputs, targets in parts:
        if not (targets != -100).any():
            continue
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "adds up all losses and divides by nothing",
    hint="Your gradient grows with the batch. The loss of a batch is a mean over its targets.",
    see="training-a-language-model#accumulation",
)
def no_division(model, parts):
    model.zero_grad()
    total = 0.0
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum")
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "divides by all positions, the ignored ones too",
    hint="How many targets has a part in which -100 stands? Padding must not make the loss smaller.",
    see="training-a-language-model#padding",
)
def counts_padding(model, parts):
    model.zero_grad()
    n = sum(targets.numel() for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "divides by the number of sequences",
    hint="The loss is a mean over targets, not over rows. How many targets has a row of T tokens?",
    see="training-a-language-model#accumulation",
)
def per_sequence(model, parts):
    model.zero_grad()
    n = sum(len(targets) for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "clears the gradient before every part",
    hint="Only the last part is left in the end. backward adds to what is there, and here that is"
    " wanted. When must it be cleared?",
    see="training-a-language-model#accumulation",
)
def clears_between(model, parts):
    n = sum(int((targets != -100).sum()) for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        model.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "keeps the gradient of the step before",
    hint="backward adds to p.grad. What stands there when your function is called a second time?",
    see="training-a-language-model#accumulation",
)
def never_clears(model, parts):
    n = sum(int((targets != -100).sum()) for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "returns the loss of the last part alone",
    hint="The gradient is right, the number for the log is not: which parts are in it?",
    see="training-a-language-model#accumulation",
)
def last_loss(model, parts):
    model.zero_grad()
    n = sum(int((targets != -100).sum()) for _, targets in parts)
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
    return loss.item()


@exercise.wrong(
    "divides by the targets seen so far",
    hint="The first part is divided by its own targets, the last by all of them. Count all targets"
    " before the first backward.",
    see="training-a-language-model#accumulation",
)
def seen_so_far(model, parts):
    model.zero_grad()
    total, n = 0.0, 0
    for inputs, targets in parts:
        n += int((targets != -100).sum())
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum")
        loss = loss / max(n, 1)
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "is nan when a part has no target",
    hint="The mean over no target is 0/0. Sums have no such trouble: where would you divide?",
    see="training-a-language-model#accumulation",
)
def nan_part(model, parts):
    model.zero_grad()
    counts = [int((targets != -100).sum()) for _, targets in parts]
    total = 0.0
    for (inputs, targets), n in zip(parts, counts, strict=True):
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss = loss * n / sum(counts)
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "computes the loss without a gradient",
    hint="After your call p.grad is empty. Which call fills it?",
    see="training-a-language-model#accumulation",
)
def no_backward(model, parts):
    model.zero_grad()
    n = sum(int((targets != -100).sum()) for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        total += loss.item()
    return total


@exercise.wrong(
    "returns a tensor that holds the graphs of all parts",
    hint="Your total keeps every part's graph in memory, which accumulation is there to avoid. Which"
    " method gives a Python number?",
    see="training-a-language-model#accumulation",
)
def tensor_total(model, parts):
    model.zero_grad()
    n = sum(int((targets != -100).sum()) for _, targets in parts)
    total = torch.zeros(())
    for inputs, targets in parts:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / n
        loss.backward()
        total = total + loss
    return total


@exercise.right("sums over the number of all targets")
def sums(model, parts):
    model.zero_grad()
    n = sum((targets != -100).sum() for _, targets in parts)
    total = 0.0
    for inputs, targets in parts:
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / n
        loss.backward()
        total += loss.item()
    return total


@exercise.right("means, weighted by their share of the targets")
def weighted_means(model, parts):
    for p in model.parameters():
        p.grad = None
    counts = [(y >= 0).sum().item() for _, y in parts]
    losses = []
    for (x, y), n in zip(parts, counts, strict=True):
        logits = model(x)
        if n == 0:
            continue
        mean = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        (mean * (n / sum(counts))).backward()
        losses.append(mean.item() * n)
    return sum(losses) / sum(counts)


@exercise.right("the gradient of the sum, divided at the end")
def divided_at_the_end(model, parts):
    model.zero_grad(set_to_none=True)
    total, n = 0.0, 0
    for x, y in parts:
        log_p = model(x).log_softmax(-1)
        counted = y != -100
        chosen = log_p.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        summed = -(chosen * counted).sum()
        summed.backward()
        total, n = total + summed.item(), n + int(counted.sum())
    for p in model.parameters():
        p.grad /= n
    return total / n
