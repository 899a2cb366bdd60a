"""Exercise: make tokens that occurred less probable, whatever the sign of their scores."""

import torch

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "penalize_repetition",
    points=2,
    difficulty=2,
    minutes=15,
    reference=sampling.penalize_repetition,
    chapter="sampling#repetition",
)


@exercise.property(
    "positive scores of tokens that occurred are divided, negative ones multiplied", weight=2
)
def signs(draw: Draw):
    yield Case((torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0, 1]), 2.0), note="both signs")
    scores = torch.tensor([1.5, -2.5, 0.75, -0.5, 3.0])
    yield Case((scores, draw.permutation(5)[:3], 1.3), note="three of five tokens")
    yield Case((scores.flip(0), draw.permutation(5)[:4], draw.integer(12, 25) / 10))
    yield Case((torch.tensor([2.0, -1.0, 0.5]), torch.tensor([2, 1]), 0.5), note="a reward, 0.5")


@exercise.property("how often a token occurred does not matter")
def repeats(draw: Draw):
    scores = draw.permutation(4) - 1.5
    yield Case((scores, torch.tensor([1, 1, 1]), 2.0), note="one token three times")
    yield Case((scores, torch.tensor([0, 3, 0, 3, 3]), 1.5), note="two tokens again and again")
    yield Case((scores, torch.zeros(0, dtype=torch.int64), 2.0), note="nothing so far")


@exercise.property("every sequence of a batch has a history of its own", weight=1.5)
def batches(draw: Draw):
    scores = torch.stack([draw.permutation(5) - 1.75 for _ in range(3)])
    previous = torch.stack([draw.permutation(5)[:2] for _ in range(3)])
    yield Case((scores, previous, 1.5), note="three sequences")
    square = torch.stack([draw.permutation(4) - 1.75 for _ in range(4)])
    yield Case((square, torch.arange(4)[:, None], 2.0), note="as many sequences as tokens")
    yield Case((scores[None], previous[None], 1.25), note="two leading dimensions")


@exercise.property("entries below 0 stand for no token", weight=0.5)
def padding(draw: Draw):
    scores = torch.stack([draw.permutation(4) - 1.75 for _ in range(2)])
    yield Case((scores, torch.tensor([[-1, 2], [0, 1]]), 2.0), note="histories of two lengths")
    yield Case((scores[0], torch.tensor([-1, -1]), 2.0), note="nothing but padding")


@exercise.property("the result has the dtype of the scores", weight=0.5)
def dtypes(draw: Draw):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        scores = (draw.permutation(4) - 1.75).to(dtype)
        yield Case((scores, torch.tensor([0, 2]), 1.5), note=f"{name} scores")


@exercise.wrong(
    "divides negative scores too",
    hint="Half of a negative score is a larger score: your penalty makes such a token more "
    "probable.",
    see="sampling#repetition",
)
def divides_all(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = logits / penalty
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "multiplies every score",
    hint="Twice a positive score is a larger score: your penalty makes such a token more probable.",
    see="sampling#repetition",
)
def multiplies_all(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = logits * penalty
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "has the two signs in each other's place",
    hint="Write down what becomes of the scores 2 and -2 under a penalty of 2. Both should fall.",
    see="sampling#repetition",
)
def swapped(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = torch.where(logits < 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "subtracts the penalty",
    hint="That is another rule, the presence penalty. This one scales the score.",
    see="sampling#repetition",
)
def subtracts(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = logits - penalty
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "rules tokens out that occurred",
    hint="A penalty makes a token less probable, it does not forbid it: texts repeat words for"
    " good reasons.",
    see="sampling#repetition",
)
def rules_out(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = torch.full_like(logits, float("-inf"))
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "applies the penalty once for every occurrence",
    hint="Only whether a token occurred matters here. A loop over the history meets some "
    "tokens several times.",
    see="sampling#repetition",
)
def counts(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    n = (previous.unsqueeze(-1) == ids).sum(-2)
    factor = torch.tensor(penalty, dtype=logits.dtype) ** n
    return torch.where(logits > 0, logits / factor, logits * factor)


@exercise.wrong(
    "penalises every token",
    hint="Tokens that did not occur keep their scores. Where does your code look at the history?",
    see="sampling#repetition",
)
def everybody(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return penalized.where(seen.any(-1, keepdim=True), logits)


@exercise.wrong(
    "penalises the tokens that did not occur",
    hint="Look at which scores changed. Which branch of `where` is taken for True?",
    see="sampling#repetition",
)
def inverted(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, logits, penalized)


@exercise.wrong(
    "looks at the last token only",
    hint="The history is the whole sequence so far, not its end.",
    see="sampling#repetition",
)
def last_only(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous[..., -1:].unsqueeze(-1) == ids).any(-2)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "penalises a token in all sequences when it occurred in one",
    hint="Sequences of a batch know nothing of each other. Over which dimensions does your "
    "test for occurrence run?",
    see="sampling#repetition",
)
def shared_history(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.reshape(-1, 1) == ids).any(0)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


@exercise.wrong(
    "takes -1 for the last token of the vocabulary",
    hint="An index of -1 counts from the end. Here it stands for no token and should touch "
    "nothing.",
    see="sampling#repetition",
)
def minus_one_is_last(logits, previous, penalty):
    ids = previous % logits.shape[-1]
    scores = logits.gather(-1, ids)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(-1, ids, scores)


@exercise.wrong(
    "turns padding into token 0",
    hint="Clamping makes a true 0 of every -1. Where should padding leave its mark?",
    see="sampling#repetition",
)
def padding_is_zero(logits, previous, penalty):
    ids = previous.clamp(min=0)
    scores = logits.gather(-1, ids)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(-1, ids, scores)


@exercise.wrong(
    "changes its input",
    hint="Indexed assignment and methods with an underscore write into the caller's tensor.",
    see="sampling#repetition",
)
def in_place(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    logits[seen & (logits > 0)] /= penalty
    logits[seen & (logits < 0)] *= penalty
    return logits


@exercise.right("ids compared with the history")
def compared(logits, previous, penalty):
    ids = torch.arange(logits.shape[-1])
    seen = (previous.unsqueeze(-1) == ids).any(-2)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


@exercise.right("gather, change, scatter into one column more")
def scattered(logits, previous, penalty):
    V = logits.shape[-1]
    wider = torch.cat((logits, torch.zeros_like(logits[..., :1])), dim=-1)
    ids = torch.where(previous < 0, V, previous)
    old = wider.gather(-1, ids)
    new = torch.where(old < 0, old * penalty, old / penalty)
    return wider.scatter(-1, ids, new)[..., :V]


@exercise.right("sequence by sequence, with sets")
def with_sets(logits, previous, penalty):
    out = logits.clone()
    histories = previous.reshape(-1, previous.shape[-1]) if previous.dim() > 1 else previous[None]
    for row, history in zip(out.view(-1, logits.shape[-1]), histories.tolist(), strict=True):
        for token in set(history):
            if token >= 0:
                row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    return out


exercise.equivalent(
    "logits > 0 -> logits >= 0",
    because="0 stays 0 either way",
)
