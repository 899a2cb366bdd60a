"""Exercise: the learning rate of every step, a straight line up and half a cosine down."""

import math

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.optim import cosine_schedule


def learning_rate(
    step: int, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    return cosine_schedule(
        step, max_lr=max_lr, min_lr=min_lr, warmup_steps=warmup_steps, total_steps=total_steps
    )


exercise = Exercise(
    "learning_rate",
    points=2,
    difficulty=2,
    minutes=15,
    reference=learning_rate,
    chapter="training-run#warm-up-and-cosine",
)


@exercise.driver
def schedule(learning_rate, steps, *settings):
    """The learning rates of several steps, in thousandths."""
    return [1000.0 * learning_rate(step, *settings) for step in steps]


def rates(draw: Draw) -> tuple[float, float]:
    """max_lr and min_lr, which is not 0."""
    return draw.integer(30, 60) / 10_000, draw.integer(3, 9) / 10_000


@exercise.property("a straight line from 0 up to max_lr at the end of the warm-up", weight=2)
def warm_up(draw: Draw):
    yield Case(([2], 0.004, 0.0004, 4, 20), note="the middle of the warm-up")
    yield Case((list(range(11)), *rates(draw), 10, 100), note="a warm-up of 10 steps")
    yield Case(([0, 1, 2, 3], *rates(draw), 3, draw.integer(20, 30)), note="a warm-up of 3 steps")


@exercise.property(
    "half a cosine from max_lr at the end of the warm-up to min_lr at the end", weight=2
)
def descent(draw: Draw):
    yield Case(([12], 0.004, 0.001, 4, 20), note="half way down")
    warmup, total = draw.integer(5, 9), draw.integer(40, 60)
    steps = [warmup, warmup + 1, warmup + 7, 30, total - 1]
    yield Case((steps, *rates(draw), warmup, total), note="steps on the way down")
    yield Case((list(range(8, 33, 4)), *rates(draw), 8, 32), note="steps on the way down")


@exercise.property("min_lr from total_steps on")
def after(draw: Draw):
    yield Case(([20], *rates(draw), 4, 20), note="step = total_steps")
    total = draw.integer(20, 40)
    yield Case(([total, total + 1, total + 9, 3 * total], *rates(draw), 4, total), note="later")


@exercise.property("there may be no warm-up, or nothing but one")
def borders(draw: Draw):
    yield Case(([0, 1, 5, 9, 10], *rates(draw), 0, 10), note="no warm-up")
    yield Case(([0, 3, 5, 6, 8], *rates(draw), 6, 6), note="a warm-up as long as everything")


@exercise.wrong(
    "begins the cosine at step 0 instead of after the warm-up",
    hint="At the end of the warm-up your rate jumps. How far along the way down is that step: which"
    " fraction is 0 there?",
    see="training-run#warm-up-and-cosine",
)
def cosine_from_0(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = step / total_steps
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "divides by all steps instead of those after the warm-up",
    hint="Just before the end your rate is not near min_lr. How many steps does the way down have?",
    see="training-run#warm-up-and-cosine",
)
def wrong_length(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / total_steps
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "goes down to 0 instead of min_lr",
    hint="Put cos = -1 into your formula: what is left is the last rate, and it should be an argument.",
    see="training-run#warm-up-and-cosine",
)
def down_to_0(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return max_lr * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "adds min_lr to a cosine that begins at max_lr",
    hint="At the end of the warm-up you return max_lr + min_lr. How far does the cosine have to fall?",
    see="training-run#warm-up-and-cosine",
)
def too_high(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + max_lr * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "follows a straight line down",
    hint="Your rate is right at both ends and half way. What is the shape between them?",
    see="training-run#warm-up-and-cosine",
)
def linear(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return max_lr + (min_lr - max_lr) * progress


@exercise.wrong(
    "takes a whole cosine, which comes up again",
    hint="Your rate is lowest half way and high again at the end. Between which angles does a cosine"
    " fall from 1 to -1?",
    see="training-run#warm-up-and-cosine",
)
def whole_cosine(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(2 * math.pi * progress)) / 2


@exercise.wrong(
    "takes a quarter of a cosine",
    hint="Your descent is steepest at the end. A cosine that is shifted up and halved goes from 1 to 0"
    " over which angle?",
    see="training-run#warm-up-and-cosine",
)
def quarter(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * math.cos(math.pi / 2 * progress)


@exercise.wrong(
    "warms up from min_lr",
    hint="The line begins at 0 here, below min_lr. What is the rate of step 0?",
    see="training-run#warm-up-and-cosine",
)
def from_min(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return min_lr + (max_lr - min_lr) * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "is one step ahead in the warm-up",
    hint="Step 0 has rate 0 and step warmup_steps has max_lr. Your line is there one step early.",
    see="training-run#warm-up-and-cosine",
)
def one_ahead(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "comes up again after the end",
    hint="A cosine goes on after pi. What should a run get that trains longer than total_steps?",
    see="training-run#warm-up-and-cosine",
)
def no_end(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.wrong(
    "measures the angle in degrees",
    hint="math.cos takes radians. Which angle is half a turn?",
    see="training-run#warm-up-and-cosine",
)
def degrees(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(180 * progress)) / 2


@exercise.right("three cases")
def three_cases(step, max_lr, min_lr, warmup_steps, total_steps):
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


@exercise.right("the squared cosine of half the angle")
def squared(step, max_lr, min_lr, warmup_steps, total_steps):
    if warmup_steps and step < warmup_steps:
        return step / warmup_steps * max_lr
    left = max(total_steps - step, 0)
    if left == 0:
        return min_lr
    weight = math.sin(math.pi / 2 * left / (total_steps - warmup_steps)) ** 2
    return weight * max_lr + (1 - weight) * min_lr


@exercise.right("with the progress held between 0 and 1")
def clamped(step, max_lr, min_lr, warmup_steps, total_steps):
    way_down = total_steps - warmup_steps
    progress = min((step - warmup_steps) / way_down, 1.0) if way_down else 1.0
    if step < warmup_steps:
        return max_lr * (step / warmup_steps)
    middle, half = (max_lr + min_lr) / 2, (max_lr - min_lr) / 2
    return middle + half * math.cos(math.pi * progress)


exercise.equivalent(
    "step - warmup_steps -> warmup_steps - step",
    "total_steps - warmup_steps -> warmup_steps - total_steps",
    because="they turn the sign of the angle round, and the cosine is the same",
)
