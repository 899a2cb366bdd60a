"""Exercise: the bias of T5, one learned number for every bucket and head."""

import math

import torch
from torch import Tensor

from llmr_ref import positions
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(table: Tensor, queries: Tensor, keys: Tensor, max_distance: int = 128) -> Tensor:
    """The causal case of `positions.RelativeBias`, with its table as an argument."""
    bucket = positions.relative_buckets(
        positions.relative_positions(queries, keys),
        bidirectional=False,
        n_buckets=table.shape[0],
        max_distance=max_distance,
    )
    return table[bucket].movedim(-1, -3)


exercise = Exercise(
    "relative_bias",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="relative-positions#a-bias-on-the-scores",
)

# With 8 buckets and a largest distance of 20 no distance below it lies on the edge of a bucket.
SIZES = {"max_distance": 20}


@exercise.property("every head reads the bucket of each distance in its own column", weight=2)
def squares(draw: Draw):
    yield Case((draw.normal(8, 2), torch.arange(3), torch.arange(3)), SIZES, note="two heads")
    yield Case((draw.normal(8, 3), torch.arange(3), torch.arange(3)), SIZES, note="three heads")
    n = draw.integer(8, 12)
    yield Case((draw.normal(8, 4), torch.arange(n), torch.arange(n)), SIZES)
    yield Case((draw.normal(8, 1), torch.arange(30), torch.arange(30)), SIZES, note="one head")


@exercise.property("positions are those that are given, for queries and for keys")
def given(draw: Draw):
    yield Case((draw.normal(8, 2), torch.tensor([5, 6]), torch.arange(7)), SIZES, note="a cache")
    keys = draw.permutation(6)
    yield Case((draw.normal(8, 2), keys[:4] + 3, keys), SIZES, note="positions out of order")
    start = draw.integer(20, 40)
    yield Case(
        (draw.normal(8, 3), torch.arange(4) + start, torch.arange(5) + start),
        SIZES,
        note="positions that start late",
    )


@exercise.property("the number of buckets is the length of the table", weight=0.5)
def tables(draw: Draw):
    far = torch.tensor([200])
    yield Case((draw.normal(32, 2), far, torch.tensor([200, 199, 150, 88, 87])), note="32 buckets")
    yield Case((draw.normal(9, 3), torch.arange(25), torch.arange(25)), SIZES, note="9 buckets")


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield Case(
        (draw.normal(8, 2), draw.integers(6, 12, 2, 3), draw.integers(0, 6, 2, 4)),
        SIZES,
        note="positions of a batch",
    )


@exercise.property("gradients flow back to the table", weight=0.5)
def gradients(draw: Draw):
    yield Case((draw.normal(8, 2), torch.arange(4), torch.arange(4)), SIZES, gradients=True)


@exercise.wrong(
    "leaves the heads in the last dimension",
    hint="A look-up in the table appends a dimension, so your result is (T, S, h). Scores "
    "have the heads before the queries. Which dimension has to move?",
    see="relative-positions#a-bias-on-the-scores",
)
def heads_last(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets]


@exercise.wrong(
    "puts the keys in the rows and the queries in the columns",
    hint="Row t of a score matrix belongs to query t. In yours the far distances lie above "
    "the diagonal. Which two dimensions are in the wrong order?",
    see="relative-positions#a-bias-on-the-scores",
)
def transposed(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets].movedim(-1, -3).transpose(-2, -1)


@exercise.wrong(
    "takes key minus query for the distance",
    hint="Keys that may be seen lie before the query, so their positions are smaller. "
    "Nearly all of your entries read bucket 0. Which one is subtracted from which?",
    see="relative-positions#a-bias-on-the-scores",
)
def wrong_sign(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (keys.unsqueeze(-2) - queries.unsqueeze(-1)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets].movedim(-1, -3)


@exercise.wrong(
    "numbers the positions itself",
    hint="With a cache the queries are the last positions, and a packed document starts "
    "again. Does your code read the values in `queries` and `keys`, or only how many "
    "there are?",
    see="positions#positions-are-given",
)
def own_positions(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (torch.arange(queries.shape[-1]).unsqueeze(-1) - torch.arange(keys.shape[-1])).clamp(
        min=0
    )
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets.expand(*queries.shape, keys.shape[-1])].movedim(-1, -3)


@exercise.wrong(
    "uses the distance itself as the row of the table",
    hint="The table has one row per bucket, not one per distance. A distance of 12 and one "
    "of 14 may share a row: which function says so?",
    see="relative-positions#relative-positions-in-buckets",
)
def distance_as_row(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    buckets = distance.clamp(max=n_buckets - 1)
    return table[buckets].movedim(-1, -3)


@exercise.wrong(
    "uses the bidirectional buckets",
    hint="Here keys after the query are hidden by the mask, so all buckets serve the past. "
    "Yours keep half of them for the future. Which argument of `relative_buckets` "
    "decides that?",
    see="relative-positions#relative-positions-in-buckets",
)
def bidirectional(table, queries, keys, max_distance=128):
    one_side = len(table) // 2
    exact = one_side // 2
    relative = keys.unsqueeze(-2) - queries.unsqueeze(-1)
    distance = relative.abs()
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (one_side - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=one_side - 1))
    return table[buckets + (relative > 0) * one_side].movedim(-1, -3)


@exercise.wrong(
    "gives every head the first column of the table",
    hint="The heads of your result are all alike. A row of the table holds one number for "
    "each head: which of them does yours read?",
    see="relative-positions#a-bias-on-the-scores",
)
def first_column(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets][..., :1].expand(*buckets.shape, table.shape[1]).movedim(-1, -3)


@exercise.wrong(
    "adds up the heads",
    hint="The result has no dimension for the heads, so all of them would get one bias. "
    "Each head learns its own.",
    see="relative-positions#a-bias-on-the-scores",
)
def sums_heads(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets].sum(-1)


@exercise.wrong(
    "ignores max_distance",
    hint="The last bucket begins at `max_distance`. Yours begins at 128 whatever is asked "
    "for: was the argument handed on?",
    see="relative-positions#relative-positions-in-buckets",
)
def ignores_max_distance(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(128 / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets].movedim(-1, -3)


@exercise.wrong(
    "assumes 32 buckets",
    hint="The length of the table says how many buckets there are. With a shorter table "
    "your look-up reads the wrong rows or runs past the end.",
    see="relative-positions#a-bias-on-the-scores",
)
def assumes_32(table, queries, keys, max_distance=128):
    n_buckets = 32
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets.clamp(max=len(table) - 1)].movedim(-1, -3)


@exercise.wrong(
    "hides keys after the query with minus infinity",
    hint="The bias says how far, the mask says whether. Keys after the query share bucket "
    "0 here; hiding them is the business of the mask.",
    see="relative-positions#a-bias-on-the-scores",
)
def masks_too(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    bias = table[buckets].movedim(-1, -3)
    later = keys.unsqueeze(-2) > queries.unsqueeze(-1)
    return bias.masked_fill(later.unsqueeze(-3), -math.inf)


@exercise.wrong(
    "cuts the gradient to the table",
    hint="The numbers are right, but the table could never learn them. Look for detach, "
    ".data, tolist or no_grad.",
    see="relative-positions#a-bias-on-the-scores",
)
def detached(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table.detach()[buckets].movedim(-1, -3)


@exercise.right("indexed with the buckets, heads moved to the front")
def indexed(table, queries, keys, max_distance=128):
    n_buckets = len(table)
    exact = n_buckets // 2
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    growth = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (n_buckets - exact)).long()
    buckets = torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))
    return table[buckets].movedim(-1, -3)


@exercise.right("each head on its own")
def each_head(table, queries, keys, max_distance=128):
    n_buckets, n_heads = table.shape
    exact = n_buckets // 2
    distance = (queries[..., :, None] - keys[..., None, :]).relu()
    far = (distance / exact).clamp(min=1).log() / math.log(max_distance / exact)
    far = (exact + (n_buckets - exact) * far).floor().clamp(max=n_buckets - 1)
    buckets = torch.where(distance >= exact, far.long(), distance)
    return torch.stack([table[:, h][buckets] for h in range(n_heads)], dim=-3)


@exercise.right("a product with one-hot buckets")
def one_hot(table, queries, keys, max_distance=128):
    n = table.shape[0]
    exact, wide = n // 2, n - n // 2
    edges = [float(b) for b in range(1, exact + 1)]
    edges += [exact * (max_distance / exact) ** (b / wide) for b in range(1, wide)]
    distance = queries.unsqueeze(-1) - keys.unsqueeze(-2)
    buckets = torch.bucketize(distance.double(), torch.tensor(edges).double(), right=True)
    chosen = (buckets.unsqueeze(-1) == torch.arange(n)).to(table.dtype)
    return torch.einsum("...tsb,bh->...hts", chosen, table)


exercise.equivalent(
    "distance.clamp(min=exact) -> distance",
    because="the growth is read only where the distance has no bucket of its own",
)
exercise.equivalent(
    "distance < exact -> distance <= exact",
    because="at the first distance without a bucket of its own both formulas give its number",
)
