"""Choosing the next token from logits: sharpen, cut the tail off, roll the die.

Every function maps logits (..., V) to logits (..., V), never in place; a token that is ruled out gets
-inf, which the softmax turns into probability 0. The order in which `distribution` and `sample`
apply them: repetition penalty, temperature, top-k, top-p, min-p, softmax. It matters: each sees the
probabilities that the one before leaves, summing to 1 again.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Implementation = Literal["fused", "explicit"]
WORTH_THREADS = 1 << 18  # probabilities, five rows of GPT-2's vocabulary


def greedy(logits: Float[Tensor, "... V"]) -> Int[Tensor, "..."]:
    """The most probable token; the lowest id if there are several.

    Raises: TypeError and ValueError as `distribution`.
    Source: L4 "Greedy (argmax)".
    """
    _check_kind(logits)
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64):
        # An eighth of torch's time: in a step of a small model that is a few per cent.
        ids = torch.as_tensor(logits.detach().numpy().argmax(axis=-1))
    else:
        ids = logits.argmax(dim=-1)
    # A nan is the largest of its row for both: looking at the winners is enough.
    if not logits.detach().gather(-1, ids[..., None]).isfinite().all():
        _check_logits(logits)
    return ids


def penalize_repetition(
    logits: Float[Tensor, "... V"], previous: Int[Tensor, "... T"], penalty: float
) -> Float[Tensor, "... V"]:
    """Divide the positive logits of tokens that occurred by the penalty, multiply the negative ones.

    Shapes: previous (..., T) has the logits' leading dimensions; entries below 0 stand for no token,
    to pad sequences of different lengths. How often a token occurred does not matter.
    Raises: TypeError for ids that are not integers; ValueError for a penalty that is not positive, an
    id that is not below V, or leading dimensions that differ.
    Source: Keskar et al. 2019 (CTRL), section 4.1.
    """
    _check_logits(logits)
    V = logits.shape[-1]
    if not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty must be positive, 1 for none, got {penalty}")
    if previous.is_floating_point() or previous.dtype == torch.bool:
        raise TypeError(f"previous holds token ids, so integers, got {previous.dtype}")
    if previous.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"previous must have the leading dimensions of logits {tuple(logits.shape)}, got "
            f"{tuple(previous.shape)}"
        )
    if previous.numel() and previous.max() >= V:
        raise ValueError(f"token id {int(previous.max())} in previous is not below V = {V}")
    seen = torch.zeros(*logits.shape[:-1], V + 1, dtype=torch.bool, device=logits.device)
    ids = previous.long().where(previous >= 0, V)  # no token: a column that is cut off again
    seen = seen.scatter(-1, ids, True)[..., :V]
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


def divide_by_temperature(
    logits: Float[Tensor, "... V"], temperature: float
) -> Float[Tensor, "... V"]:
    """score / T: below 1 sharper, above 1 flatter.

    Raises: ValueError for a T that is not positive and finite; as T falls to 0 the most probable
    token takes all, which is `greedy`.
    Source: L3 "Generating new tokens"; L4 "Temperature".
    """
    _check_logits(logits)
    _check_temperature(temperature)
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "... V"], k: int) -> Float[Tensor, "... V"]:
    """Rule out all but the k most probable tokens: exactly k, of equal ones those with lower ids.

    Raises: ValueError for a k outside 1..V.
    Source: Fan et al. 2018, section 5.2; L3 "Top k"; L4 "Top-k Sampling".
    """
    _check_logits(logits)
    return _keep_top_k(logits, k)


def _keep_top_k(logits: Tensor, k: int) -> Tensor:
    V = logits.shape[-1]
    if not 1 <= k <= V:
        raise ValueError(f"top_k must lie in 1..V = {V}, got {k}")
    if k == V:
        return logits.clone()
    falling = logits.topk(k + 1, dim=-1).values  # one more shows whether the cut separates equals
    smallest = falling[..., k - 1 : k]
    outside = logits < smallest
    if (smallest == falling[..., k:]).any():
        above = logits > smallest
        rank_among_equals = (~outside & ~above).cumsum(dim=-1)
        outside |= ~above & (rank_among_equals > k - above.sum(dim=-1, keepdim=True))
    return logits.masked_fill(outside, -math.inf)


def keep_top_p(
    logits: Float[Tensor, "... V"], p: float, *, implementation: Implementation = "fused"
) -> Float[Tensor, "... V"]:
    """Rule out all but the nucleus: the smallest set of tokens with a probability of at least p.

    It has at least one token; of equally probable ones those with lower ids; p = 1 keeps all. A mass
    that misses p by no more than the rounding of softmax and sum, about 1e-6 p, counts as p.
    Raises: ValueError for a p outside (0, 1] or an unknown implementation.
    Source: Holtzman et al. 2020, equation 2; L4 "Top-p Nucleus".
    """
    _check_logits(logits)
    return _keep_top_p(logits, p, implementation)


def _keep_top_p(logits: Tensor, p: float, implementation: Implementation = "fused") -> Tensor:
    if not 0 < p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {p}")
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation is {implementation!r}; choose 'fused' or 'explicit'")
    if p == 1:
        return logits.clone()
    probabilities = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    # The softmax rounds to its own dtype, the sum over V tokens to float64.
    rounding = [torch.finfo(dtype).eps for dtype in (probabilities.dtype, torch.float64)]
    p *= 1 - 8 * rounding[0] - logits.shape[-1] * rounding[1]
    if implementation == "fused" and logits.device.type == "cpu":
        outside = _outside_nucleus(probabilities, p)
    else:  # on other devices sorting costs little, and a loop over rows a lot
        falling, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        mass = falling.cumsum(dim=-1, dtype=torch.float64)
        mass_before = mass.roll(1, dims=-1)
        mass_before[..., 0] = 0
        outside = torch.empty_like(ids, dtype=torch.bool)
        outside.scatter_(-1, ids, mass_before >= p * mass[..., -1:])
    return logits.masked_fill(outside, -math.inf)


def _outside_nucleus(probabilities: Float[Tensor, "... V"], p: float) -> Bool[Tensor, "... V"]:
    """Row by row, sorting only what can be inside; numpy sorts values without their places."""
    rows = probabilities.reshape(-1, probabilities.shape[-1]).numpy()
    outside = np.empty(rows.shape, dtype=bool)

    def mark(row: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        total = row.sum(dtype=np.float64)
        # V tokens below (1 - p) / V hold less than 1 - p together: the others reach p without them.
        # Half of that bound leaves room for rounding.
        falling = np.sort(row[row >= (1 - p) / 2 * total / len(row)])[::-1]
        mass = falling.cumsum(dtype=np.float64)
        n = int(np.searchsorted(mass, p * total)) + 1
        np.less(row, falling[n - 1], out=out)
        surplus = len(row) - np.count_nonzero(out) - n
        if surplus:
            equals = np.flatnonzero(row == falling[n - 1])
            out[equals[-surplus:]] = True

    n_threads = min(len(rows), torch.get_num_threads())
    if rows.size < WORTH_THREADS or n_threads == 1:
        for row, out in zip(rows, outside, strict=True):
            mark(row, out)
    else:  # numpy sorts without holding Python's lock
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(mark, rows, outside))
    return torch.from_numpy(outside).view(probabilities.shape)


def keep_min_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Rule out tokens with less than p times the probability of the most probable one.

    Raises: ValueError for a p outside (0, 1].
    Source: Nguyen et al. 2024 (min-p), section 3.
    """
    _check_logits(logits)
    return _keep_min_p(logits, p)


def _keep_min_p(logits: Tensor, p: float) -> Tensor:
    if not 0 < p <= 1:
        raise ValueError(f"min_p must lie in (0, 1], got {p}")
    # The ratio of two probabilities is the exponential of the difference of their logits.
    score = logits.to(torch.promote_types(logits.dtype, torch.float32))
    too_small = score - score.amax(dim=-1, keepdim=True) < math.log(p)
    return logits.masked_fill(too_small, -math.inf)


def distribution(
    logits: Float[Tensor, "... V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    previous: Int[Tensor, "... T"] | None = None,
) -> Float[Tensor, "... V"]:
    """The probabilities that `sample` draws from, at least float32, after all steps in order.

    None leaves a step out. A temperature of 0 gives all to the `greedy` token; the cuts then change
    nothing.
    Raises: TypeError for logits that are not floating point; ValueError for logits with a nan or inf,
    or with no token left, for a negative temperature, for a repetition_penalty without previous
    tokens, or as the single steps.
    Source: L3 "Generating new tokens"; L4 "Sampling Strategies from Next-Token Distribution".
    """
    _check_logits(logits)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if repetition_penalty is not None:
        if previous is None:
            raise ValueError(
                f"repetition_penalty = {repetition_penalty} needs previous, the tokens so far"
            )
        scores = penalize_repetition(scores, previous, repetition_penalty)
    if temperature == 0:
        scores = _keep_top_k(scores, 1)
    else:
        _check_temperature(temperature)
        # With the largest score at 0 no temperature, however small, makes an infinite one.
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    if top_k is not None:
        scores = _keep_top_k(scores, top_k)
    if top_p is not None:
        scores = _keep_top_p(scores, top_p)
    if min_p is not None:
        scores = _keep_min_p(scores, min_p)
    return scores.softmax(dim=-1)


def sample(
    logits: Float[Tensor, "... V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    previous: Int[Tensor, "... T"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "..."]:
    """Draw one token id for every row of logits from `distribution`; temperature 0 is `greedy`.

    Raises: as `distribution`; ValueError for a generator on another device than the logits.
    """
    if generator is not None and generator.device.type != logits.device.type:
        raise ValueError(
            f"generator is on {generator.device}, logits on {logits.device}; make it with "
            "torch.Generator(device=logits.device)"
        )
    probabilities = distribution(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        previous=previous,
    )
    rows = probabilities.reshape(-1, logits.shape[-1])
    return torch.multinomial(rows, 1, generator=generator).view(logits.shape[:-1])


def entropy(logits: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """-sum p ln p in nats: 0 for a certain token, ln V for V equally probable ones.

    Raises: TypeError and ValueError as `distribution`.
    """
    _check_logits(logits)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.special.entr(scores.softmax(dim=-1)).sum(dim=-1).to(logits.dtype)


def _check_kind(logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits need a last dimension of V tokens, got {tuple(logits.shape)}")


def _check_logits(logits: Tensor) -> None:
    _check_kind(logits)
    highest = logits.detach().amax(dim=-1)  # nan if any is, inf if any is, -inf if all are
    finite = highest.isfinite()
    if not finite.all():
        wrong = highest[~finite][0].item()
        raise ValueError(
            f"logits must be finite or -inf, with a token left in every row; a row's maximum is {wrong}"
        )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be positive and finite, got {temperature}; for the limit 0 use greedy"
        )
