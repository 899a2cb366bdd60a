"""Exercise: ln p(y | x) of a decoder that is fed the true target: teacher forcing."""

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(decode, target, lengths, bos):
    """sum_t ln p(y_t | y_<t, x) over real positions. Source: L3, L5 "Sequence to sequence"."""
    inputs = torch.cat((torch.full_like(target[..., :1], bos), target[..., :-1]), dim=-1)
    ln_p = decode(inputs).log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return ln_p.masked_fill(~real, 0.0).sum(-1)


exercise = Exercise(
    "target_log_probability",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="recurrent-networks#teacher-forcing",
)


@exercise.driver
def with_a_decoder(target_log_probability, target, lengths, bos, E, U):
    """The decoder: a running sum of embeddings, and scores from it; tokens in, (..., T, V) out."""

    def decode(inputs):
        return torch.tanh(E[inputs].cumsum(-2)) @ U.T

    return target_log_probability(decode, target, lengths, bos)


def probability(draw: Draw, *shape: int, lengths, bos=None, V=5, d=3, note="") -> Case:
    bos = V - 1 if bos is None else bos
    target = draw.integers(0, V - 2, *shape)
    weights = draw.normal(V, d), draw.normal(V, d, scale=2)
    return Case((target, torch.tensor(lengths), bos, *weights), note=note)


@exercise.property("every token is predicted from the true tokens before it", weight=2)
def forced(draw: Draw):
    yield probability(draw, 1, lengths=1, V=3, d=1, note="a target of one token")
    yield probability(draw, 2, lengths=2, V=3, d=1, note="a target of two tokens")
    T = draw.integer(4, 6)
    yield probability(draw, T, lengths=T)
    yield probability(draw, T, lengths=T, bos=0, note="0 as the token that begins")


@exercise.property("padding counts for nothing")
def padding(draw: Draw):
    yield probability(draw, 3, lengths=2, note="one token of padding")
    yield probability(draw, 3, 5, lengths=[5, 1, 3], note="lengths 5, 1 and 3")
    yield probability(draw, 3, 3, lengths=[2, 1, 2], note="padding in every row")
    yield probability(draw, 2, 4, lengths=[0, 4], note="a target without a token")


@exercise.property("every sequence of a batch has its own probability", weight=0.5)
def leading(draw: Draw):
    yield probability(draw, 2, 3, lengths=[3, 3], note="a batch")
    yield probability(draw, 2, 2, 4, lengths=[[4, 2], [1, 3]], note="two leading dimensions")


@exercise.wrong(
    "feeds each token to the step that predicts it",
    hint="The decoder sees the answer then. What does it know when it predicts token t?",
    see="recurrent-networks#teacher-forcing",
)
def not_shifted(decode, target, lengths, bos):
    inputs = target
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "shifts the inputs the other way",
    hint="Step t is fed token t - 1, not t + 1.",
    see="recurrent-networks#teacher-forcing",
)
def shifted_wrong(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((target[..., 1:], first), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "feeds its own guesses",
    hint="With teacher forcing the true tokens go in, whatever the decoder would have said.",
    see="recurrent-networks#teacher-forcing",
)
def free_running(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    for t in range(1, target.shape[-1]):
        inputs[..., t] = decode(inputs[..., :t])[..., -1, :].argmax(-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "feeds the first token at every step",
    hint="Only the first step has nothing before it.",
    see="recurrent-networks#teacher-forcing",
)
def all_begin(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = first.expand(target.shape)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "begins with token 0",
    hint="The token that begins is an argument.",
    see="recurrent-networks#teacher-forcing",
)
def zero_begins(decode, target, lengths, bos):
    first = torch.zeros_like(target[..., :1])
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "wraps the last token round to the front",
    hint="`roll` puts the end before the beginning. What stands there is the token that begins.",
    see="recurrent-networks#teacher-forcing",
)
def no_begin(decode, target, lengths, bos):
    inputs = target.roll(1, -1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "leaves out the first token",
    hint="It has a probability too: the one after the token that begins.",
    see="recurrent-networks#teacher-forcing",
)
def first_skipped(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real)[..., 1:].sum(-1)


@exercise.wrong(
    "averages over the positions",
    hint="The probability of a sequence is a product, its logarithm a sum.",
    see="recurrent-networks#teacher-forcing",
)
def averaged(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1) / lengths.clamp(min=1)


@exercise.wrong(
    "counts padding",
    hint="Behind the length of a target nothing was said, so nothing has a probability.",
    see="recurrent-networks#padding",
)
def padding_counted(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    return ln_p.sum(-1)


@exercise.wrong(
    "leaves out the last real token",
    hint="A length of 2 means tokens 0 and 1, the one that ends included.",
    see="recurrent-networks#padding",
)
def one_short(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None] - 1
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "counts one token of padding",
    hint="A length of 2 means tokens 0 and 1.",
    see="recurrent-networks#padding",
)
def one_long(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) <= lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "adds up scores",
    hint="Scores are no logarithms of probabilities before they are normalised over the "
    "vocabulary.",
    see="recurrent-networks#teacher-forcing",
)
def not_normalised(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "adds up probabilities",
    hint="Logarithms are added; probabilities would be multiplied.",
    see="recurrent-networks#teacher-forcing",
)
def probabilities(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.wrong(
    "returns the probability",
    hint="For a long target it is smaller than any float. The logarithm is asked for.",
    see="recurrent-networks#teacher-forcing",
)
def a_probability(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1).exp()


@exercise.wrong(
    "returns the loss",
    hint="The logarithm of a probability is negative; the loss is its opposite.",
    see="recurrent-networks#teacher-forcing",
)
def negated(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return -(ln_p * real).sum(-1)


@exercise.wrong(
    "adds up the batch",
    hint="One number for each sequence.",
    see="recurrent-networks#teacher-forcing",
)
def whole_batch(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum()


@exercise.wrong(
    "takes the most probable token",
    hint="The probability of the target is asked for, likely or not.",
    see="recurrent-networks#teacher-forcing",
)
def best_token(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).amax(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.right("shift, log-softmax, gather")
def by_gather(decode, target, lengths, bos):
    first = torch.full_like(target[..., :1], bos)
    inputs = torch.cat((first, target[..., :-1]), dim=-1)
    logits = decode(inputs)
    ln_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    real = torch.arange(target.shape[-1]) < lengths[..., None]
    return (ln_p * real).sum(-1)


@exercise.right("torch's cross-entropy with ignored targets")
def by_cross_entropy(decode, target, lengths, bos):
    T = target.shape[-1]
    inputs = F.pad(target, (1, 0), value=bos)[..., :T]
    logits = decode(inputs).reshape(-1, T, decode(inputs).shape[-1])
    padding = torch.arange(T) >= lengths.unsqueeze(-1)
    goals = target.masked_fill(padding, -100).reshape(-1, T)
    losses = F.cross_entropy(logits.mT, goals, ignore_index=-100, reduction="none")
    return -losses.sum(-1).reshape(lengths.shape)


@exercise.right("one step after the other")
def step_by_step(decode, target, lengths, bos):
    total = torch.zeros(lengths.shape)
    inputs = torch.zeros_like(target[..., :1]) + bos
    for t in range(target.shape[-1]):
        logits = decode(inputs)[..., -1, :]
        chosen = F.one_hot(target[..., t], logits.shape[-1])
        ln_p = (logits * chosen).sum(-1) - logits.logsumexp(-1)
        total = total + torch.where(lengths > t, ln_p, torch.zeros_like(ln_p))
        inputs = torch.cat((inputs, target[..., t : t + 1]), dim=-1)
    return total


exercise.equivalent(
    "target[..., :-1] -> target",
    because="one input too many: its scores come last and gather never reads them",
)
