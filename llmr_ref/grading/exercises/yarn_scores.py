"""Exercise: scores of turned queries and keys, sharpened by the temperature of YaRN."""

import math

import torch
from torch import Tensor

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(
    Q: Tensor, K: Tensor, positions: Tensor, frequencies: Tensor, factor: float
) -> Tensor:
    """Q K^T / (t sqrt(d)) after turning both, t = (0.1 ln(factor) + 1)^-2."""
    angles = positions.to(torch.float64)[..., None] * frequencies
    Q, K = rope.rotate_pairs(Q, angles), rope.rotate_pairs(K, angles)
    scaling = rope.RopeScaling("yarn", factor=factor, original_length=1)
    temperature = rope.attention_temperature(scaling)
    return Q @ K.transpose(-2, -1) / (temperature * math.sqrt(Q.shape[-1]))


exercise = Exercise(
    "yarn_scores",
    points=4,
    difficulty=4,
    minutes=30,
    reference=reference,
    chapter="longer-contexts#yarn-the-temperature",
)


def scores(draw: Draw, *shape: int, positions=None, factor=4.0, note="", **about) -> Case:
    """Frequencies that are not those of any base, so that they have to be used."""
    pairs = shape[-1] // 2
    frequencies = draw.integers(2, 90, pairs) / 100
    positions = torch.arange(shape[-2]) if positions is None else positions
    args = (draw.normal(*shape), draw.normal(*shape), positions, frequencies, factor)
    return Case(args, note=note, tolerance=1e-4, **about)


@exercise.property(
    "queries and keys turn, and the scores are divided by t times the root of d", weight=2
)
def one_head(draw: Draw):
    yield scores(draw, 2, 2, note="two positions and a single pair")
    yield scores(draw, 3, 4, factor=2.0, note="a factor of 2")
    yield scores(draw, draw.integer(4, 6), 6, factor=float(draw.integer(8, 32)))


@exercise.property("a factor of 1 leaves the usual scores", weight=0.5)
def factor_of_one(draw: Draw):
    yield scores(draw, 3, 4, factor=1.0, note="a factor of 1")
    yield scores(draw, 2, 8, factor=1.0, note="a factor of 1 and four pairs")


@exercise.property("positions are those that are given")
def positions(draw: Draw):
    yield scores(draw, 4, 4, positions=torch.tensor([3, 9, 4, 20]), note="positions out of order")
    yield scores(
        draw, 3, 6, positions=draw.integers(5, 90, 3), note="positions that do not start at 0"
    )


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield scores(draw, 2, 3, 4, note="two heads")
    yield scores(draw, 3, 2, 3, 4, factor=16.0, note="a batch with heads")


@exercise.property("gradients flow back to queries and keys", weight=0.5)
def gradients(draw: Draw):
    frequencies = draw.integers(2, 90, 2) / 100

    def case(Q: Tensor, K: Tensor, note: str) -> Case:
        # Whole numbers: positions are no input that learns.
        return Case(
            (Q, K, torch.arange(3), frequencies, 4.0), note=note, tolerance=1e-4, gradients=True
        )

    yield case(draw.normal(3, 4), draw.normal(3, 4), "one head")


@exercise.wrong(
    "leaves the temperature out",
    hint="With a factor above 1 your scores are too small. Which letter of the formula "
    "stands beside the root of d, and do you divide by it?",
    see="longer-contexts#yarn-the-temperature",
)
def no_temperature(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    return turn(Q) @ turn(K).transpose(-2, -1) / math.sqrt(Q.shape[-1])


@exercise.wrong(
    "multiplies by the temperature instead of dividing",
    hint="YaRN makes attention sharper in a longer context, so the scores grow. A t below "
    "1 does that only where it divides.",
    see="longer-contexts#yarn-the-temperature",
)
def multiplies(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) * t / math.sqrt(Q.shape[-1])


@exercise.wrong(
    "takes the factor of queries and keys for the temperature",
    hint="0.1 ln s + 1 multiplies queries and keys each, so it enters the scores twice. "
    "What is t in terms of it?",
    see="longer-contexts#yarn-the-temperature",
)
def not_squared(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -1
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "takes the logarithm to base 10",
    hint="ln is the natural logarithm. For a factor of 10 the bracket is 1.23, not 1.1.",
    see="longer-contexts#yarn-the-temperature",
)
def base_ten(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log10(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "takes the logarithm to base 2",
    hint="ln is the natural logarithm. For a factor of 2 the bracket is 1.069, not 1.1.",
    see="longer-contexts#yarn-the-temperature",
)
def base_two(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log2(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "forgets the 1 beside the logarithm",
    hint="A factor of 1 means no stretching, so t should be 1 there. What is your t?",
    see="longer-contexts#yarn-the-temperature",
)
def no_one(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor)) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "does not divide by the root of d",
    hint="The temperature comes on top of the usual scale; it does not replace it. Which "
    "factor of the formula is missing?",
    see="longer-contexts#yarn-the-temperature",
)
def no_scale(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / t


@exercise.wrong(
    "turns the queries only",
    hint="With one side turned a score depends on the position of the query, not on the "
    "distance. Both get the same rotation.",
    see="rope#only-the-difference-matters",
)
def queries_only(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ K.transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "turns the keys in the opposite direction",
    hint="Then the angles add up where they should cancel, and the score depends on the "
    "sum of the positions. Queries and keys turn alike.",
    see="rope#only-the-difference-matters",
)
def opposite_keys(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    flip = torch.tensor([1.0, -1.0]).repeat(len(frequencies))
    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ (turn(K * flip) * flip).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "pairs each dimension with one half the width away",
    hint="In this course a pair is two neighbours. Yours are dimension k and k + d/2, so "
    "the frequencies meet other coordinates.",
    see="rope#two-layouts",
)
def half_layout(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "numbers the positions itself",
    hint="The rows need not be positions 0, 1, 2. Does your code use the values of "
    "`positions`, or only how many there are?",
    see="positions#positions-are-given",
)
def own_positions(Q, K, positions, frequencies, factor):
    angles = torch.arange(positions.shape[-1]).unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "computes the frequencies itself",
    hint="The frequencies are an argument: they may come from YaRN or from anything else. "
    "Does your code read them?",
    see="longer-contexts#yarn-the-temperature",
)
def own_frequencies(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * 10000.0 ** (
        -2 * torch.arange(len(frequencies)) / Q.shape[-1]
    )
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.wrong(
    "returns weights instead of scores",
    hint="The statement stops before the softmax, where a mask would still be applied. "
    "Which step is one too many?",
    see="longer-contexts#yarn-the-temperature",
)
def weights(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    scores = turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))
    return scores.softmax(-1)


@exercise.wrong(
    "cuts the gradient",
    hint="The scores are right, and nothing can be learnt through them. Look for detach, "
    ".data, no_grad or numpy.",
    see="masking#softmax-safely",
)
def detached(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q.detach()) @ turn(K.detach()).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.right("both turned, the temperature beside the root")
def beside_the_root(Q, K, positions, frequencies, factor):
    angles = positions.unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    t = (0.1 * math.log(factor) + 1) ** -2
    return turn(Q) @ turn(K).transpose(-2, -1) / (t * math.sqrt(Q.shape[-1]))


@exercise.right("queries and keys each multiplied, as libraries do it")
def each_multiplied(Q, K, positions, frequencies, factor):
    grow = 0.1 * math.log(factor) + 1
    angles = (positions[:, None] * frequencies).repeat_interleave(2, dim=-1)
    cos, sin = angles.cos() * grow, angles.sin() * grow

    def turn(x):
        quarter = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return x * cos + quarter * sin

    return torch.einsum("...td,...sd->...ts", turn(Q), turn(K)) * Q.shape[-1] ** -0.5


@exercise.right("complex numbers")
def complex_numbers(Q, K, positions, frequencies, factor):
    turns = torch.polar(torch.tensor(1.0), torch.outer(positions.float(), frequencies))
    q = torch.view_as_complex(Q.unflatten(-1, (-1, 2))) * turns
    k = torch.view_as_complex(K.unflatten(-1, (-1, 2))) * turns
    scores = (q @ k.conj().transpose(-2, -1)).real
    return scores * (1 + math.log(factor) / 10) ** 2 / math.sqrt(K.shape[-1])


exercise.equivalent(
    "a * cos - b * sin -> b * sin - a * cos",
    because="the sign changes in queries and keys alike, and a product of both does not see it",
)
exercise.equivalent(
    "torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1) -> "
    "torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-2)",
    because="the order of coordinates changes in queries and keys alike, and a sum does not see it",
)
