"""Exercise: a bilinear score as the dot product of two projections."""

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(W, d):
    """W_Q, W_K with W_K^T W_Q as near to W as d rows allow. Source: L1 "Attention, formally"."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return S[:d, None] * Vh[:d], U[:, :d].T


exercise = Exercise(
    "two_matrices",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="attention#bilinear-scores",
)


@exercise.driver
def scores(two_matrices, W, d, Q, K):
    """The shapes of W_Q and W_K, and the score of every query with every key."""
    W_Q, W_K = two_matrices(W, d)
    return tuple(W_Q.shape), tuple(W_K.shape), (Q @ W_Q.T) @ (K @ W_K.T).T


def spread(draw: Draw, d_k: int, d_q: int, rank: int) -> torch.Tensor:
    """A matrix with singular values that are far apart: the nearest one of low rank is unique."""
    U, V = (torch.linalg.qr(draw.normal(n, n, dtype=torch.float64)).Q[:, :rank] for n in (d_k, d_q))
    S = 3.0 * 0.6 ** torch.arange(rank)
    return ((U * S) @ V.T).float()


def scored(draw: Draw, d_k: int, d_q: int, d: int, rank: int | None = None, note="") -> Case:
    W = spread(draw, d_k, d_q, min(d_k, d_q) if rank is None else rank)
    Q, K = draw.normal(3, d_q), draw.normal(4, d_k)
    return Case((W, d, Q, K), note=note, tolerance=1e-4)


@exercise.property("with enough rows the scores are those of W", weight=2)
def full(draw: Draw):
    yield scored(draw, 2, 2, 2, note="a square matrix")
    yield scored(draw, 4, 3, 3, note="keys that are wider than queries")
    yield scored(draw, 3, 5, 3, note="queries that are wider than keys")
    n = draw.integer(4, 6)
    yield scored(draw, n, n, n)


@exercise.property("a matrix of low rank needs no more rows than its rank")
def low_rank(draw: Draw):
    yield scored(draw, 4, 4, 2, rank=2, note="rank 2 and d = 2")
    yield scored(draw, 5, 7, 3, rank=3, note="rank 3 and d = 3")


@exercise.property("with fewer rows the product is the nearest to W that there is")
def nearest(draw: Draw):
    yield scored(draw, 3, 3, 1, note="a single row")
    yield scored(draw, 5, 4, 2, note="two of four rows")
    yield scored(draw, 6, 8, draw.integer(3, 5))


@exercise.wrong(
    "exchanges the two matrices",
    hint="The score is k^T W q. Which side of W meets the keys, and which of your "
    "factors has that width?",
    see="attention#bilinear-scores",
)
def swapped(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] * Vh[:d]
    W_K = U[:, :d].T
    return W_K, W_Q


@exercise.wrong(
    "puts the singular values into both factors",
    hint="The product then holds their squares. How often may S occur in it?",
    see="attention#bilinear-scores",
)
def twice(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] * Vh[:d]
    W_K = (U[:, :d] * S[:d]).T
    return W_Q, W_K


@exercise.wrong(
    "leaves out the singular values",
    hint="U and V only turn. What stretches?",
    see="attention#bilinear-scores",
)
def without(W, d):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = Vh[:d]
    W_K = U[:, :d].T
    return W_Q, W_K


@exercise.wrong(
    "takes the root of the singular values on one side only",
    hint="Two roots make a whole. The other factor needs one as well.",
    see="attention#bilinear-scores",
)
def root_once(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None].sqrt() * Vh[:d]
    W_K = U[:, :d].T
    return W_Q, W_K


@exercise.wrong(
    "keeps the smallest singular values",
    hint="svd sorts them in falling order. Which part of W is worth keeping?",
    see="attention#low-rank-scores",
)
def smallest(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[-d:, None] * Vh[-d:]
    W_K = U[:, -d:].T
    return W_Q, W_K


@exercise.wrong(
    "takes the columns of Vh",
    hint="torch returns V transposed already: its rows belong to the singular values.",
    see="attention#bilinear-scores",
)
def v_not_vh(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] * Vh[:, :d].T
    W_K = U[:, :d].T
    return W_Q, W_K


@exercise.wrong(
    "cuts rows off W instead of factoring it",
    hint="Rows of W beyond the first d have something to say too. What does the identity "
    "with d rows leave out?",
    see="attention#low-rank-scores",
)
def cut(W, d):
    W_Q = W[:d]
    W_K = torch.eye(W.shape[0])[:d]
    return W_Q, W_K


@exercise.wrong(
    "ignores d",
    hint="The matrices have d rows, however many W would need. Which of the directions "
    "do you keep?",
    see="attention#low-rank-scores",
)
def ignores_d(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:, None] * Vh
    W_K = U.T
    return W_Q, W_K


@exercise.wrong(
    "divides by the root of d",
    hint="Two matrices have the very scores of W. The root of d_k belongs to scaled "
    "dot-product attention.",
    see="attention#bilinear-scores",
)
def scaled(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] * Vh[:d]
    W_K = U[:, :d].T
    return W_Q / d**0.5, W_K


@exercise.wrong(
    "factors with QR and cuts",
    hint="The factors of QR are not sorted by how much they carry. Which decomposition is?",
    see="attention#low-rank-scores",
)
def by_qr(W, d):
    basis, R = torch.linalg.qr(W)
    W_Q = R[:d]
    W_K = basis[:, :d].T
    return W_Q, W_K


@exercise.wrong(
    "treats W as symmetric",
    hint="Queries and keys play different parts, so W differs from its transpose. An "
    "eigendecomposition has one basis for both.",
    see="attention#bilinear-scores",
)
def symmetric(W, d):
    values, vectors = torch.linalg.eigh((W + W.T) / 2)
    order = values.abs().argsort(descending=True)[:d]
    return values[order, None] * vectors[:, order].T, vectors[:, order].T


@exercise.wrong(
    "makes the largest singular value 1",
    hint="Scores have a size, and a softmax notices. Divide by nothing.",
    see="attention#bilinear-scores",
)
def normalised(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] / S[0] * Vh[:d]
    W_K = U[:, :d].T
    return W_Q, W_K


@exercise.right("the singular values on the side of the queries")
def by_svd(W, d):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    W_Q = S[:d, None] * Vh[:d]
    W_K = U[:, :d].T
    return W_Q, W_K


@exercise.right("a root of the singular values on either side")
def both_sides(W, d):
    U, S, Vh = torch.linalg.svd(W)
    root = torch.diag(S[:d].sqrt())
    return root @ Vh[:d, :], root @ U[:, :d].mT


@exercise.right("the best directions of the keys, and W seen through them")
def by_projection(W, d):
    W64 = W.double()
    vectors = torch.linalg.eigh(W64 @ W64.T).eigenvectors
    W_K = vectors[:, vectors.shape[1] - d :].T
    return (W_K @ W64).float(), W_K.float()


exercise.equivalent(
    "torch.linalg.svd(W, full_matrices=False) -> torch.linalg.svd(W, full_matrices=True)",
    because="d is at most the smaller side of W, so the further columns of U and rows of Vh "
    "are cut off",
)
