"""Exercise: a mask that lets no query see the future."""

import torch
from torch import Tensor

from llmr_ref import masks
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "causal_mask",
    points=2,
    difficulty=2,
    minutes=10,
    reference=masks.causal_mask,
    chapter="masking#minus-infinity-then-softmax",
)


@exercise.property("a square mask shows every query itself and what came before", weight=2)
def square(draw: Draw):
    yield Case((3,), note="three positions")
    yield Case((draw.integer(4, 6),))
    yield Case((draw.integer(7, 12),))


@exercise.property("one position sees itself", weight=0.5)
def single(draw: Draw):
    yield Case((1,), note="a single position")


@exercise.property("with more keys than queries, the queries are the last positions", weight=1.5)
def rectangular(draw: Draw):
    yield Case((2, 4), note="two queries and four keys")
    yield Case((1, draw.integer(3, 6)), note="one query and a cache of keys")
    n = draw.integer(3, 5)
    yield Case((n, n + draw.integer(2, 4)))
    yield Case((n, n), note="as many keys as queries, both given")


@exercise.wrong(
    "lets every position see the next token",
    hint="Read row 0 of your mask aloud: which positions may the first token look at? Shift the "
    "diagonal until a position sees itself and nothing later.",
    see="masking#off-by-one",
)
def sees_next(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.tril(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries + 1).bool()


@exercise.wrong(
    "forbids a position to see itself",
    hint="A query may use its own token: only later ones give the answer away. What does the "
    "first row of your mask leave to attend to?",
    see="masking#off-by-one",
)
def strict(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.tril(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries - 1).bool()


@exercise.wrong(
    "marks with True what must not be attended to",
    hint="Two conventions exist. In this course True means that attending is allowed; yours marks "
    "the forbidden cells.",
    see="masking#true-means-may-attend",
)
def inverted(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.triu(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries + 1).bool()


@exercise.wrong(
    "puts the queries in the columns",
    hint="Row i belongs to query i. In your mask the first row sees everything and the last row "
    "sees one key. Which side is the future on when queries are rows?",
    see="masking#which-side-is-the-future",
)
def transposed(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.triu(torch.ones(n_queries, n_keys)).bool()


@exercise.wrong(
    "returns 0 and minus infinity instead of a boolean mask",
    hint="You built the bias that is added to the scores. The exercise asks one step earlier: a "
    "boolean tensor, True where attending is allowed.",
    see="masking#true-means-may-attend",
)
def additive(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    bias = torch.full((n_queries, n_keys), float("-inf"))
    return torch.triu(bias, diagonal=n_keys - n_queries + 1)


@exercise.wrong(
    "returns ones and zeros as floats",
    hint="The pattern is right, the type is not: a mask of this course is boolean. Look at the "
    "dtype of what you return.",
    see="masking#true-means-may-attend",
)
def floats(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.tril(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries)


@exercise.wrong(
    "takes the queries for the first positions when there are more keys",
    hint="When a cache holds earlier keys, the new queries come last. Query 0 of two queries and "
    "four keys stands at position 2, not at position 0.",
    see="masking#more-keys-than-queries",
)
def aligned_first(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.tril(torch.ones(n_queries, n_keys)).bool()


@exercise.wrong(
    "ignores the number of keys",
    hint="The mask needs one column per key. Which argument of yours decides how many columns "
    "there are?",
    see="masking#more-keys-than-queries",
)
def always_square(n_queries, n_keys=None):
    return torch.tril(torch.ones(n_queries, n_queries)).bool()


@exercise.wrong(
    "lets everybody see everything",
    hint="Nothing is hidden: this is the model that cheats. Which cells of the matrix would show "
    "a query the token that it has to predict?",
    see="masking#the-cheating-model",
)
def all_allowed(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.ones(n_queries, n_keys, dtype=torch.bool)


@exercise.wrong(
    "lets a position see only itself",
    hint="The diagonal alone leaves no context. A query may look at itself and at everything "
    "before it.",
    see="masking#minus-infinity-then-softmax",
)
def only_self(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    rows = torch.arange(n_queries)[:, None] + (n_keys - n_queries)
    return rows == torch.arange(n_keys)


@exercise.right("lower triangle, shifted by the number of cached keys")
def triangle(n_queries, n_keys=None):
    n_keys = n_queries if n_keys is None else n_keys
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)


@exercise.right("broadcast comparison of positions")
def broadcast(n_queries, n_keys=None):
    if n_keys is None:
        n_keys = n_queries
    query_positions = torch.arange(n_keys)[-n_queries:]
    return query_positions.unsqueeze(1) >= torch.arange(n_keys).unsqueeze(0)


@exercise.right("two loops")
def loops(n_queries, n_keys=None) -> Tensor:
    if n_keys is None:
        n_keys = n_queries
    mask = torch.zeros(n_queries, n_keys, dtype=torch.bool)
    for i in range(n_queries):
        for j in range(n_keys):
            if j <= i + n_keys - n_queries:
                mask[i, j] = True
    return mask


@exercise.right("last rows of the square mask")
def last_rows(n_queries, n_keys=None):
    n_keys = n_keys or n_queries
    return torch.tril(torch.ones(n_keys, n_keys)).bool()[n_keys - n_queries :]
