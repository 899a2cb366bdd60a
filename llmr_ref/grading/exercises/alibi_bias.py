"""Exercise: the bias of ALiBi, a penalty that grows with the distance."""

import torch
from torch import Tensor

from llmr_ref import positions
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(slopes: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """`positions.alibi_bias` with its slopes as an argument."""
    distance = positions.relative_positions(queries, keys).abs().unsqueeze(-3)
    return -slopes[:, None, None] * distance


exercise = Exercise(
    "alibi_bias",
    points=3,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="relative-positions#a-slope-for-every-head",
)


def slopes(draw: Draw, n_heads: int) -> Tensor:
    """Positive numbers, so that a sign or a sum that is wrong shows."""
    return draw.integers(5, 95, n_heads) / 100


@exercise.property("a score falls by the slope of its head for every step of distance", weight=2)
def squares(draw: Draw):
    yield Case((torch.tensor([0.5, 0.25]), torch.arange(3), torch.arange(3)), note="two heads")
    yield Case((slopes(draw, 3), torch.arange(3), torch.arange(3)), note="three heads")
    n = draw.integer(4, 7)
    yield Case((slopes(draw, 2), torch.arange(n), torch.arange(n)))
    yield Case((slopes(draw, 1), torch.arange(4), torch.arange(4)), note="one head")


@exercise.property("positions are those that are given, for queries and for keys", weight=1.5)
def given(draw: Draw):
    yield Case((slopes(draw, 2), torch.tensor([4, 5]), torch.arange(6)), note="a cache")
    keys = draw.permutation(6) * 2
    yield Case((slopes(draw, 4), keys[:3] + 5, keys), note="positions out of order")
    yield Case(
        (slopes(draw, 2), draw.normal(3, scale=4.0), draw.normal(4, scale=4.0)),
        note="positions between whole numbers",
    )


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield Case(
        (slopes(draw, 2), draw.integers(5, 9, 3, 2), draw.integers(0, 5, 3, 4)),
        note="positions of a batch",
    )
    yield Case(
        (slopes(draw, 2), draw.integers(5, 9, 2, 2), draw.integers(0, 5, 2, 4)),
        note="as many sequences as heads",
    )


@exercise.property("the result has the dtype of the slopes", weight=0.5)
def dtypes(draw: Draw):
    yield Case((slopes(draw, 2).double(), torch.arange(3), torch.arange(3)), note="float64 slopes")


@exercise.wrong(
    "rewards distance instead of punishing it",
    hint="A far key should get a smaller score than a near one. Which sign does your bias "
    "have away from the diagonal?",
    see="relative-positions#a-slope-for-every-head",
)
def rewards(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "subtracts without taking the absolute value",
    hint="On one side of the diagonal your penalty is a reward. A distance is never negative.",
    see="relative-positions#a-slope-for-every-head",
)
def no_absolute(slopes, queries, keys):
    distance = queries.unsqueeze(-1) - keys.unsqueeze(-2)
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "gives keys after the query no penalty",
    hint="With a causal mask nobody would notice, but the statement asks for the distance "
    "on both sides, as an encoder needs it. What does your clamp do to keys that come "
    "later?",
    see="relative-positions#a-slope-for-every-head",
)
def causal_only(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "squares the distance",
    hint="The first letters of ALiBi's name stand for linear: the step from distance 1 to "
    "2 costs as much as the step from 9 to 10.",
    see="relative-positions#a-slope-for-every-head",
)
def squares_distance(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).square()
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "counts the distance from 1",
    hint="A token's distance to itself is 0, so the diagonal of the bias is 0. What is on yours?",
    see="relative-positions#a-slope-for-every-head",
)
def from_one(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs().add(1)
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "numbers the positions itself",
    hint="With a cache the queries are the last positions. Does your code read the values "
    "in `queries` and `keys`, or only how many there are?",
    see="positions#positions-are-given",
)
def own_positions(slopes, queries, keys):
    distance = (torch.arange(queries.shape[-1]).unsqueeze(-1) - torch.arange(keys.shape[-1])).abs()
    return -slopes.view(-1, 1, 1) * distance.expand(*queries.shape, -1).unsqueeze(-3)


@exercise.wrong(
    "puts the keys in the rows and the queries in the columns",
    hint="Row t of a score matrix belongs to query t. With as many queries as keys nothing "
    "raises. Which of the two gets the new last dimension?",
    see="relative-positions#a-slope-for-every-head",
)
def transposed(slopes, queries, keys):
    distance = (queries.unsqueeze(-2) - keys.unsqueeze(-1)).abs()
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "leaves the heads in the last dimension",
    hint="Scores have the heads before the queries: (..., h, T, S). Yours come after the keys.",
    see="relative-positions#a-slope-for-every-head",
)
def heads_last(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -slopes * distance.unsqueeze(-1)


@exercise.wrong(
    "lines up the heads with the sequences of a batch",
    hint="The distances of a batch are (B, T, S), the slopes (h, 1, 1). Counted from the "
    "end, the heads meet your batch. Where does a dimension of size 1 belong?",
    see="relative-positions#a-slope-for-every-head",
)
def meets_batch(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -slopes.view(-1, 1, 1) * distance


@exercise.wrong(
    "gives every head the same slope",
    hint="The heads of your result are all alike. Each has its own slope, so that some "
    "look far and some near.",
    see="relative-positions#a-slope-for-every-head",
)
def one_slope(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -slopes.mean().expand(len(slopes)).view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "divides by the slope instead of multiplying",
    hint="A steep slope means a large penalty. In your result the head with the largest "
    "slope has the smallest one.",
    see="relative-positions#a-slope-for-every-head",
)
def divides(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -distance.unsqueeze(-3) / slopes.view(-1, 1, 1)


@exercise.wrong(
    "rounds the positions to whole numbers",
    hint="Positions may lie between whole numbers when a context is interpolated. Where "
    "does your code convert them to an integer type?",
    see="positions#positions-are-given",
)
def whole_positions(slopes, queries, keys):
    distance = (queries.long().unsqueeze(-1) - keys.long().unsqueeze(-2)).abs()
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.wrong(
    "hides keys after the query with minus infinity",
    hint="The bias says how far, the mask says whether. A bias that hides keys could not "
    "be used in an encoder.",
    see="relative-positions#a-slope-for-every-head",
)
def masks_too(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    bias = -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)
    later = keys.unsqueeze(-2) > queries.unsqueeze(-1)
    return bias.masked_fill(later.unsqueeze(-3), -torch.inf)


@exercise.wrong(
    "returns float32 whatever it is given",
    hint="Something on the way converts to float32: a `.float()`, or a tensor made without "
    "a dtype. The result should have the dtype of the slopes.",
    see="relative-positions#a-slope-for-every-head",
)
def to_float32(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -slopes.float().view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.right("distances times slopes")
def broadcast(slopes, queries, keys):
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs()
    return -slopes.view(-1, 1, 1) * distance.unsqueeze(-3)


@exercise.right("one head after another")
def each_head(slopes, queries, keys):
    apart = queries[..., :, None] - keys[..., None, :]
    distance = torch.where(apart < 0, -apart, apart)
    return torch.stack([-(slope * distance) for slope in slopes], dim=-3)


@exercise.right("an outer product of slopes and distances")
def outer(slopes, queries, keys):
    distance = torch.cdist(queries.double().unsqueeze(-1), keys.double().unsqueeze(-1), p=1)
    return torch.einsum("h,...ts->...hts", slopes.neg(), distance.to(slopes.dtype))


exercise.equivalent(
    "queries.unsqueeze(-1) - keys.unsqueeze(-2) -> keys.unsqueeze(-2) - queries.unsqueeze(-1)",
    because="a distance is the same from both ends",
)
