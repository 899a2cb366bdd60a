"""Exercise: the distribution over the next token at a temperature, 0 included."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(logits: Tensor, temperature: float) -> Tensor:
    return sampling.distribution(logits, temperature=temperature)


exercise = Exercise(
    "temperature_distribution",
    points=2,
    difficulty=2,
    minutes=15,
    reference=reference,
    chapter="sampling#temperature",
)


@exercise.property("the weights are exp(score / T), divided by their sum", weight=2)
def weights(draw: Draw):
    yield Case((torch.tensor([1.1, 0.0]), 0.5), note="two tokens and T = 0.5")
    yield Case((torch.tensor([1.1, 0.0]), 2.0), note="two tokens and T = 2")
    yield Case((draw.normal(5), 1.0), note="T = 1")
    yield Case((draw.normal(draw.integer(4, 7), scale=2), draw.integer(3, 30) / 10))


@exercise.property("temperature 0 gives everything to the most probable token", weight=1.5)
def greedy(draw: Draw):
    yield Case((draw.normal(4), 0.0), note="T = 0")
    yield Case((torch.tensor([1.0, 3.0, 3.0, 0.0]), 0.0), note="T = 0 and two largest scores")
    rows = torch.stack((draw.permutation(4), draw.permutation(4), draw.permutation(4))).float()
    yield Case((rows, 0.0), note="T = 0 and a batch")


@exercise.property("every row of a batch is a distribution of its own")
def batches(draw: Draw):
    yield Case((draw.normal(2, 3), 0.7), note="two rows")
    yield Case((draw.normal(3, 3), 1.5), note="as many rows as tokens")
    yield Case((draw.normal(2, 3, 4), 0.5), note="two leading dimensions")


@exercise.property("low temperatures and large scores stay finite", weight=1)
def extremes(draw: Draw):
    yield Case((torch.tensor([10.0, 9.0, -10.0]), 0.01), note="T = 0.01")
    rows = draw.normal(2, 3) + torch.tensor([[300.0], [-300.0]])
    yield Case((rows, 1.0), note="rows of very different size", tolerance=1e-3)
    hidden = draw.normal(4, scale=0.5).masked_fill(torch.arange(4) == 2, -torch.inf)
    yield Case((hidden, 0.8), note="a token that is ruled out")


@exercise.property("16-bit scores give probabilities in float32", weight=0.5)
def dtypes(draw: Draw):
    yield Case((draw.normal(2, 4, dtype=torch.bfloat16), 0.8), note="bfloat16", tolerance=1e-4)
    yield Case((draw.normal(4, dtype=torch.bfloat16), 0.0), note="bfloat16 and T = 0")


@exercise.wrong(
    "multiplies by the temperature",
    hint="A low temperature should sharpen the distribution. What happens to the gap between "
    "two scores when they are multiplied by 0.5?",
    see="sampling#temperature",
)
def multiplies(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return torch.softmax(z * temperature, dim=-1)


@exercise.wrong(
    "ignores the temperature",
    hint="Two temperatures give the same weights. Where in your code does the argument meet "
    "the scores?",
    see="sampling#temperature",
)
def ignores_it(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return torch.softmax(z, dim=-1)


@exercise.wrong(
    "divides the probabilities instead of the scores",
    hint="Dividing all weights by the same number changes nothing once they sum to 1 again. "
    "The temperature acts before the exponential.",
    see="sampling#temperature",
)
def after_softmax(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return torch.softmax(z, dim=-1) / temperature


@exercise.wrong(
    "divides by zero at temperature 0",
    hint="A score divided by 0 is infinite, or nan. As T falls to 0 the distribution has a "
    "limit: which token gets everything?",
    see="sampling#greedy",
)
def divides_by_zero(logits, temperature):
    z = logits.float()
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "takes temperature 0 for temperature 1",
    hint="`if temperature:` is False at 0.0, and what you return then is the plain softmax. "
    "What should 0 mean?",
    see="sampling#greedy",
)
def zero_is_one(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return torch.softmax(z, dim=-1)
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "replaces temperature 0 by a very small one",
    hint="Two largest scores then share the probability. Greedy decoding has one answer: the "
    "lowest id among the largest.",
    see="sampling#greedy",
)
def tiny_temperature(logits, temperature):
    z = logits.float()
    if temperature == 0:
        temperature = 1e-6
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "picks the last of equal largest scores",
    hint="Of several largest scores the one with the lowest id wins. From which side does your"
    " search start?",
    see="sampling#greedy",
)
def last_of_ties(logits, temperature):
    z = logits.float()
    if temperature == 0:
        last = z.shape[-1] - 1 - z.flip(-1).argmax(-1)
        return F.one_hot(last, z.shape[-1]).float()
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "returns the token instead of a distribution at temperature 0",
    hint="The caller expects probabilities (..., V) at every temperature. Where does all of "
    "the probability lie?",
    see="sampling#greedy",
)
def token_itself(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return z.argmax(-1)
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "looks for the largest score in the whole batch",
    hint="Every row needs a token of its own. Which dimension does your `argmax` search?",
    see="sampling#greedy",
)
def one_for_all(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(), z.numel()).reshape(z.shape).float()
    return torch.softmax(z / temperature, dim=-1)


@exercise.wrong(
    "normalises over the batch",
    hint="Add up your result along the last dimension: what should every row give?",
    see="sampling#temperature",
)
def first_dimension(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return torch.softmax(z / temperature, dim=0)


@exercise.wrong(
    "exponentiates large scores as they are",
    hint="The exponential of 89 is infinite in float32, and a low temperature makes large "
    "numbers of small ones. Shift the scores first.",
    see="sampling#temperature",
)
def overflows(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return (z / temperature).exp() / (z / temperature).exp().sum(-1, keepdim=True)


@exercise.wrong(
    "keeps 16 bits",
    hint="A bfloat16 has two to three digits, and probabilities of rare tokens need more. "
    "Convert before you divide.",
    see="sampling#temperature",
)
def sixteen_bits(logits, temperature):
    z = logits
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)
    return torch.softmax(z / temperature, dim=-1)


@exercise.right("a one-hot row at 0, a softmax otherwise")
def one_hot_at_zero(logits, temperature):
    z = logits.float()
    if temperature == 0:
        return F.one_hot(z.argmax(-1), z.shape[-1]).float()
    return torch.softmax(z / temperature, dim=-1)


@exercise.right("shifted exponentials over their sum")
def shifted(logits, temperature):
    z = logits.to(torch.float32)
    z = z - z.max(dim=-1, keepdim=True).values
    if temperature > 0:
        e = torch.exp(z / temperature)
        return e / e.sum(dim=-1, keepdim=True)
    first = (z == 0).cumsum(-1) == 1
    return (first & (z == 0)).to(torch.float32)


@exercise.right("scatter at 0, logarithms otherwise")
def through_logarithms(logits, temperature):
    scores = logits.double()
    if temperature == 0.0:
        winner = torch.max(scores, dim=-1, keepdim=True).indices
        return torch.zeros_like(scores).scatter(-1, winner, 1.0).float()
    scores = scores * (1 / temperature)
    return (scores - scores.logsumexp(-1, keepdim=True)).exp().float()
