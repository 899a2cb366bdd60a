"""Exercise: one mask for causality, packed documents, padding and a prefix."""

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.masks import causal_mask, document_mask


def reference(documents, prefix_length):
    """True = may attend. Source: L1 "Batched LM training"; Raffel et al. 2020, "prefix LM"."""
    T = documents.shape[-1]
    in_prefix = torch.arange(T) < prefix_length[..., None, None]
    real = documents[..., None, :] >= 0
    return document_mask(documents) & (causal_mask(T) | in_prefix) & real


exercise = Exercise(
    "training_mask",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="masking#packed-documents",
)


def mask(documents, prefix, note="") -> Case:
    return Case((torch.tensor(documents), torch.tensor(prefix)), note=note)


@exercise.property("a query sees itself and what came before, inside its document", weight=2)
def packed(draw: Draw):
    yield mask([4, 4, 4], 0, note="a single document")
    yield mask([0, 0, 1, 1], 0, note="two documents")
    yield mask([2, 0, 0, 1, 1, 1], 0, note="documents that are not numbered in order")
    yield mask([0, 0, 1, 0], 0, note="a document in two pieces")


@exercise.property("nobody sees padding, and padding sees nothing")
def padding(draw: Draw):
    yield mask([0, 0, -1], 0, note="padding at the end")
    yield mask([-1, -1, 3, 3], 0, note="padding in front")
    yield mask([0, 0, 1, -1, -1], 2, note="padding and a prefix")
    yield mask([-1, -1, -1], 2, note="nothing but padding")


@exercise.property("the prefix sees itself both ways")
def prefix(draw: Draw):
    yield mask([0, 0, 0, 0], 2, note="a prefix of two")
    yield mask([0] * 5, draw.integer(3, 4), note="a long prefix")
    yield mask([0, 0, 0], 3, note="nothing but prefix")
    yield mask([0, 0, 1, 1, 1], 4, note="a prefix that ends in the second document")


@exercise.property("every sequence of a batch has its own documents and prefix")
def batches(draw: Draw):
    yield mask([[0, 0, 0], [0, 1, 1]], [2, 0], note="two sequences")
    documents = torch.stack([draw.integers(-1, 2, 4).sort().values for _ in range(4)])
    yield Case((documents, torch.tensor([3, 0, 2, 4])), note="as many sequences as positions")
    documents = draw.integers(-1, 2, 2, 3, 6).sort().values
    yield Case((documents, draw.integers(0, 6, 2, 3)), note="two leading dimensions")


@exercise.wrong(
    "hides every query from itself",
    hint="A token may look at itself. Which comparison leaves out the diagonal?",
    see="masking#off-by-one",
)
def strict(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place < place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "lets queries see the future instead of the past",
    hint="Rows are queries, columns are keys. A key is allowed when its place is not "
    "after the query's.",
    see="masking#which-side-is-the-future",
)
def future(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place >= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "forgets the causal part",
    hint="Documents alone let every token see what follows it in its own document.",
    see="masking#which-side-is-the-future",
)
def both_ways(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place >= 0
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "lets documents see one another",
    hint="Documents share a sequence to save room. A token of the second must not know the first.",
    see="masking#packed-documents",
)
def one_document(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] >= 0
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "lets a document see those with lower numbers",
    hint="The numbers are names, without an order. When do two positions belong together?",
    see="masking#packed-documents",
)
def numbered(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] >= documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "treats padding as one more document",
    hint="Padding carries the number -1 everywhere, so it equals itself. Is it a document?",
    see="masking#padding",
)
def padding_together(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    return same & seen


@exercise.wrong(
    "takes document 0 for padding",
    hint="Documents are counted from 0. Which number marks padding?",
    see="masking#padding",
)
def zero_is_padding(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 1
    return same & seen & real


@exercise.wrong(
    "leaves out the prefix",
    hint="Inside the prefix nothing is predicted, so it may be read both ways. What opens there?",
    see="masking#prefix",
)
def no_prefix(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "makes the prefix one longer",
    hint="A prefix of two is positions 0 and 1.",
    see="masking#prefix",
)
def prefix_longer(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place <= prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "opens the prefix across documents and padding",
    hint="The prefix loosens the causal part alone. What else still has to hold?",
    see="masking#prefix",
)
def prefix_crosses(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    real = documents[..., None, :] >= 0
    return (same & seen & real) | (place < prefix_length[..., None, None])


@exercise.wrong(
    "opens the rows of the prefix instead of its columns",
    hint="A query of the prefix must not see what follows the prefix. Is it the key or "
    "the query that has to lie inside?",
    see="masking#prefix",
)
def prefix_queries(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place[:, None] < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "marks what is forbidden",
    hint="True means: may attend. The opposite convention exists as well; say which one "
    "you were asked for.",
    see="masking#true-means-may-attend",
)
def inverted(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return ~(same & seen & real)


@exercise.wrong(
    "uses one prefix for the whole batch",
    hint="Every sequence has a prefix of its own. How do the lengths line up with (..., T, T)?",
    see="masking#prefix",
)
def one_prefix(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length.max())
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.wrong(
    "has queries in the columns",
    hint="Rows are queries. Transpose, and a key looks at its queries.",
    see="masking#which-side-is-the-future",
)
def transposed(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return (same & seen & real).mT


@exercise.right("comparisons of places")
def by_comparing(documents, prefix_length):
    place = torch.arange(documents.shape[-1])
    same = documents[..., :, None] == documents[..., None, :]
    seen = place <= place[:, None]
    seen = seen | (place < prefix_length[..., None, None])
    real = documents[..., None, :] >= 0
    return same & seen & real


@exercise.right("masks that are combined with and and or")
def by_masks(documents, prefix_length):
    T = documents.shape[-1]
    causal = torch.ones(T, T).tril().bool()
    inside = torch.arange(T).lt(prefix_length.unsqueeze(-1))
    both = inside.unsqueeze(-1) & inside.unsqueeze(-2)
    equal = documents.unsqueeze(-1).eq(documents.unsqueeze(-2))
    padding = documents.unsqueeze(-1) == -1
    return torch.logical_and(equal, causal | both).masked_fill(padding, False)


@exercise.right("loops over queries and keys")
def loops(documents, prefix_length):
    T = documents.shape[-1]
    rows = documents.reshape(-1, T).tolist()
    prefixes = prefix_length.reshape(-1).tolist()
    mask = torch.zeros(len(rows), T, T, dtype=torch.bool)
    for b, (row, prefix) in enumerate(zip(rows, prefixes, strict=True)):
        for q in range(T):
            for k in range(T):
                visible = k <= q or k < prefix
                mask[b, q, k] = row[q] == row[k] != -1 and visible
    return mask.reshape(*documents.shape, T)
