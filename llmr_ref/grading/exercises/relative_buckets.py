"""Exercise: the bucket of T5 that a distance falls into."""

import math

import torch
from torch import Tensor

from llmr_ref import positions as reference
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "relative_buckets",
    points=4,
    difficulty=4,
    minutes=30,
    reference=reference.relative_buckets,
    chapter="relative-positions#relative-positions-in-buckets",
)


def buckets(relative: Tensor, bidirectional: bool, *, note="", n_buckets=32, max_distance=128):
    """A call on those relative positions that lie clear of the edge between two wide buckets.

    At an edge the order of roundings decides, and no order is right.
    """
    one_side = n_buckets // 2 if bidirectional else n_buckets
    exact = one_side // 2
    distance = relative.abs().double().clamp(min=exact)
    steps = (distance / exact).log() / math.log(max_distance / exact) * (one_side - exact)
    clear = (steps - steps.round()).abs() > 1e-3
    clear |= (relative.abs() <= exact) | (relative.abs() >= max_distance)
    sizes = {"n_buckets": n_buckets, "max_distance": max_distance}
    kwargs = {"bidirectional": bidirectional}
    if (n_buckets, max_distance) != (32, 128):
        kwargs |= sizes
    return Case((torch.where(clear, relative, 0),), kwargs, note=note)


@exercise.property(
    "before the query: half the buckets hold one distance, the others grow", weight=2
)
def causal(draw: Draw):
    yield buckets(torch.tensor([0, -1, -2, -15]), False, note="distances below 16")
    yield buckets(torch.tensor([-17, -20, -60, -112, -113]), False, note="distances from 17 on")
    yield buckets(-draw.integers(17, 120, 6), False)
    yield buckets(-draw.integers(0, 40, draw.integer(5, 9)), False)
    far = torch.tensor([-128, -129, -500, -10000])
    yield buckets(far, False, note="distances of 128 and more")


@exercise.property("causal: keys after the query share bucket 0")
def after(draw: Draw):
    yield buckets(torch.tensor([1, 2, 30, 200]), False, note="keys after the query")
    yield buckets(draw.integers(-100, 100, 8), False, note="keys on both sides")


@exercise.property(
    "bidirectional: the upper half of the buckets is for keys after the query", weight=1.5
)
def both_sides(draw: Draw):
    yield buckets(torch.tensor([-3, 0, 3]), True, note="distance 3 on both sides")
    yield buckets(torch.tensor([-7, -8, 7, 8, 200, -200]), True, note="the last exact distance")
    yield buckets(draw.integers(-100, 100, 10), True)
    yield buckets(draw.integers(1, 12, 4), True, note="keys after the query")


@exercise.property("the number of buckets and the largest distance are arguments")
def sizes(draw: Draw):
    yield buckets(
        -torch.arange(20), False, n_buckets=8, max_distance=16, note="8 buckets, distance 16"
    )
    yield buckets(draw.integers(-70, 70, 8), True, n_buckets=12, max_distance=60, note="12 buckets")
    yield buckets(draw.integers(-300, 0, 6), False, n_buckets=20, max_distance=250)
    yield buckets(-torch.arange(35), False, n_buckets=9, max_distance=30, note="9 buckets")


@exercise.property("any shape goes in and comes out", weight=0.5)
def shapes(draw: Draw):
    yield buckets(torch.arange(5) - torch.arange(4)[:, None], False, note="a square of positions")
    yield buckets(draw.integers(-90, 90, 2, 3, 2), True, note="three dimensions")


@exercise.wrong(
    "takes query minus key for key minus query",
    hint="A negative number means that the key came before. In the causal case your "
    "buckets are full where they should be 0, and the other way round. Which sign do "
    "distances that count have?",
    see="relative-positions#relative-positions-in-buckets",
)
def wrong_sign(relative, *, bidirectional, n_buckets=32, max_distance=128):
    relative, first = -relative, 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "gives keys after the query the same buckets as keys before it",
    hint="In the causal case nobody attends to the future, so no bucket is spent on it. "
    "What should a positive relative position be turned into first?",
    see="relative-positions#relative-positions-in-buckets",
)
def causal_absolute(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = relative.abs()
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "does not split the buckets between the two sides",
    hint="With both sides in use, distance 3 before and distance 3 after are two buckets. "
    "Half of the buckets belong to each side: which line of yours halves them?",
    see="relative-positions#relative-positions-in-buckets",
)
def no_sides(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "adds the upper half for keys before the query",
    hint="Look at the bucket of -3 and that of 3 when both sides count. The upper half is "
    "for keys that come after: for which sign is it?",
    see="relative-positions#relative-positions-in-buckets",
)
def upper_half_before(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative < 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "puts distance 0 into the upper half",
    hint="A token's distance to itself is neither before nor after, and its bucket is 0. "
    "Is your comparison strict?",
    see="relative-positions#relative-positions-in-buckets",
)
def zero_after(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative >= 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "gives every distance a bucket of its own until there are no more",
    hint="All your buckets hold one distance, so everything from the last one on looks "
    "alike. Only the first half is exact; the other half should reach to "
    "`max_distance`.",
    see="relative-positions#relative-positions-in-buckets",
)
def no_growth(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    return first + distance.clamp(max=n_buckets - 1)


@exercise.wrong(
    "grows in a straight line instead of like a logarithm",
    hint="Far away, twice the distance should cost the same number of buckets each time. "
    "Your wide buckets are all of one width. Which function turns factors into steps?",
    see="relative-positions#relative-positions-in-buckets",
)
def linear_growth(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = (distance.clamp(min=exact) - exact) / (max_distance - exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "lets the buckets run past the last one",
    hint="A distance of `max_distance` or more belongs to the last bucket, whose number is "
    "one below their count. Try a distance of 10 000.",
    see="relative-positions#relative-positions-in-buckets",
)
def no_last_bucket(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far)


@exercise.wrong(
    "rounds to the nearest bucket instead of down",
    hint="A bucket begins where the formula reaches its number, so the fraction is cut "
    "off. Yours begins half a step early.",
    see="relative-positions#relative-positions-in-buckets",
)
def rounds(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).round().long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "takes the logarithm of the distance, not of its ratio to the exact ones",
    hint="At the first distance without a bucket of its own the growth should be 0. What "
    "does the logarithm of that distance have to be divided by, inside the logarithm, "
    "to give 0 there?",
    see="relative-positions#relative-positions-in-buckets",
)
def no_ratio(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact)) / math.log(max_distance)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "leaves max_distance out of the growth",
    hint="With the natural logarithm alone, the number of wide buckets has nothing to do "
    "with how far they reach. At `max_distance` the growth should be 1: what do you "
    "divide by?",
    see="relative-positions#relative-positions-in-buckets",
)
def natural_logarithm(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "writes 32 and 128 instead of the arguments",
    hint="The result is right for the defaults only. Try 8 buckets and a largest distance of 16.",
    see="relative-positions#relative-positions-in-buckets",
)
def hard_coded(relative, *, bidirectional, n_buckets=32, max_distance=128):
    n_buckets, max_distance, first = 32, 128, 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "returns floats",
    hint="A bucket is the number of a row in a table, and floats cannot be used as an "
    "index. What is the last conversion that is missing?",
    see="relative-positions#relative-positions-in-buckets",
)
def floats(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).floor()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.wrong(
    "counts distances from 1",
    hint="A token's distance to itself is 0, and so is its bucket. Your first bucket is "
    "never used for a key that may be seen.",
    see="relative-positions#relative-positions-in-buckets",
)
def from_one(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    distance = distance + 1
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.right("both formulas for all, then a choice")
def both_formulas(relative, *, bidirectional, n_buckets=32, max_distance=128):
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = (relative > 0) * n_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


@exercise.right("one number after another")
def one_by_one(relative, *, bidirectional, n_buckets=32, max_distance=128):
    def bucket(r):
        if bidirectional and r > 0:
            return one_side + near_or_far(r)
        return near_or_far(max(-r, 0))

    def near_or_far(distance):
        if distance < exact:
            return distance
        growth = math.log(distance / exact) / math.log(max_distance / exact)
        return min(exact + int(growth * (one_side - exact)), one_side - 1)

    one_side = n_buckets // 2 if bidirectional else n_buckets
    exact = one_side // 2
    numbers = [bucket(r) for r in relative.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.int64).reshape(relative.shape)


@exercise.right("counts how many bucket edges lie below the distance")
def edges(relative, *, bidirectional, n_buckets=32, max_distance=128):
    one_side = n_buckets // 2 if bidirectional else n_buckets
    exact = one_side // 2
    wide = torch.arange(1, one_side - exact, dtype=torch.float64) / (one_side - exact)
    edges = torch.cat((torch.arange(1, exact + 1).double(), exact * (max_distance / exact) ** wide))
    distance = relative.abs() if bidirectional else -relative
    found = torch.bucketize(distance.double(), edges, right=True)
    return torch.where(relative > 0, found + one_side, found) if bidirectional else found


exercise.equivalent(
    "distance.clamp(min=exact) -> distance",
    because="the growth is read only where the distance has no bucket of its own",
)
exercise.equivalent(
    "distance < exact -> distance <= exact",
    because="at the first distance without a bucket of its own both formulas give its number",
)
