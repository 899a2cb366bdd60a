"""Exercise: turn every pair of neighbouring dimensions by the angle of its position."""

import torch

from llmr_ref import rope
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "apply_rope",
    points=4,
    difficulty=3,
    minutes=25,
    reference=rope.apply_rope,
    chapter="rope#turning-a-pair",
)

# An angle below 100 is known to about 1e-5 in float32, one of 2000 to about 1e-3.
NEAR, FAR = 1e-4, 2e-3


@exercise.property("every pair of neighbours turns by the angle of its position", weight=2)
def one_sequence(draw: Draw):
    yield Case(
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.arange(2)),
        note="a single pair at positions 0 and 1",
        tolerance=NEAR,
    )
    yield Case((draw.normal(2, 4), torch.arange(2)), note="two pairs", tolerance=NEAR)
    n = draw.integer(4, 7)
    yield Case((draw.normal(n, 10), torch.arange(n)), tolerance=NEAR)


@exercise.property("positions are any numbers in any order", weight=1.5)
def positions(draw: Draw):
    yield Case((draw.normal(1, 4), torch.tensor([5])), note="position 5 alone", tolerance=NEAR)
    yield Case(
        (draw.normal(4, 6), draw.permutation(4) + 20), note="positions out of order", tolerance=NEAR
    )
    yield Case(
        (draw.normal(2, 4), torch.tensor([0.5, 3.25])),
        note="positions between whole numbers",
        tolerance=NEAR,
    )
    yield Case(
        (draw.normal(3, 8), draw.integers(500, 2000, 3)), note="positions far out", tolerance=FAR
    )


@exercise.property("the base is an argument")
def bases(draw: Draw):
    yield Case((draw.normal(1, 4), torch.tensor([3]), 100.0), note="base=100.0", tolerance=NEAR)
    yield Case(
        (draw.normal(3, 6), draw.integers(1, 20, 3)),
        {"base": float(draw.integer(300, 900))},
        note="another base",
        tolerance=NEAR,
    )


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield Case(
        (draw.normal(2, 3, 4), draw.integers(0, 30, 3)), note="one row for a batch", tolerance=NEAR
    )
    yield Case(
        (draw.normal(3, 3, 4), draw.integers(0, 30, 3)),
        note="as many sequences as positions",
        tolerance=NEAR,
    )
    yield Case(
        (draw.normal(2, 3, 4), draw.integers(0, 30, 2, 3)),
        note="a row of positions for each sequence",
        tolerance=NEAR,
    )
    yield Case(
        (draw.normal(2, 3, 5, 4), draw.integers(0, 30, 2, 1, 5)),
        note="a batch with heads",
        tolerance=NEAR,
    )


@exercise.property("the result has the dtype of x, with angles in at least 32 bits")
def dtypes(draw: Draw):
    yield Case(
        (draw.normal(2, 4, dtype=torch.float64), draw.integers(1, 20, 2)),
        note="float64 vectors",
        tolerance=NEAR,
    )
    yield Case(
        (draw.normal(2, 4, dtype=torch.bfloat16), torch.tensor([0, 1])), note="bfloat16 vectors"
    )
    # Odd numbers from 257 to 511 do not exist in bfloat16.
    odd = 2 * draw.integers(150, 250, 4) + 1
    yield Case(
        (draw.normal(4, 6, dtype=torch.bfloat16), odd), note="bfloat16 vectors at odd positions"
    )


@exercise.property("gradients flow back to x", weight=0.5)
def gradients(draw: Draw):
    yield Case((draw.normal(2, 4), torch.tensor([3, 1])), gradients=True, tolerance=NEAR)
    yield Case(
        (draw.normal(2, 3, 6), draw.integers(0, 30, 3)),
        note="a batch",
        gradients=True,
        tolerance=NEAR,
    )


@exercise.wrong(
    "pairs each dimension with one half the width away",
    hint="That is the half-split layout of other libraries. Here a pair is two neighbours: "
    "dimensions 0 and 1, then 2 and 3.",
    see="rope#two-layouts",
)
def half_layout(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


@exercise.wrong(
    "takes neighbours as pairs but returns them as two halves",
    hint="The rotation is right, the order of the result is not. All first members come before all "
    "second members; they should alternate as in the input.",
    see="rope#two-layouts",
)
def returns_halves(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


@exercise.wrong(
    "lines up the angles 0 1 2 0 1 2 with pairs that want 0 0 1 1 2 2",
    hint="Both members of a pair turn by the same angle, and your pairs are neighbours. Compare "
    "what `cat` and `repeat` give with what `repeat_interleave` gives.",
    see="rope#two-layouts",
)
def tiled_angles(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin


@exercise.wrong(
    "turns in the opposite direction",
    hint="Scores between queries and keys do not notice, but the formula does. What becomes of "
    "(1, 0) when it turns by a small positive angle?",
    see="rope#turning-a-pair",
)
def clockwise(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos + b * sin, b * cos - a * sin), dim=-1).flatten(-2)


@exercise.wrong(
    "swaps cosine and sine",
    hint="At position 0 nothing turns. Which of the two functions is 1 there, and which factor of "
    "x does it belong to?",
    see="rope#turning-a-pair",
)
def swapped_functions(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    sin, cos = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "forgets the minus sign of the rotation",
    hint="A rotation keeps the length of every pair. Compare the norms of your input and your "
    "output, then look at the first row of the matrix.",
    see="rope#turning-a-pair",
)
def no_minus(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos + b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "turns the second member with a first member that has already turned",
    hint="Both lines of the matrix use the old a and the old b. When you write the second line, "
    "what does your first coordinate hold?",
    see="rope#turning-a-pair",
)
def one_after_the_other(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    out = x.clone()
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = out[..., 0::2].clone() * sin + x[..., 1::2] * cos
    return out


@exercise.wrong(
    "changes its input",
    hint="Slices are views: what you assign to a slice of x is written into the caller's tensor. "
    "Where do you write, and where should you?",
    see="rope#turning-a-pair",
)
def in_place(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2].clone(), x[..., 1::2].clone()
    x[..., 0::2] = a * cos - b * sin
    x[..., 1::2] = a * sin + b * cos
    return x


@exercise.wrong(
    "adds sines and cosines instead of turning",
    hint="Adding a vector that depends on the position is the sinusoidal encoding. RoPE multiplies "
    "each pair by a rotation; a zero vector stays zero.",
    see="rope#turning-a-pair",
)
def adds_sinusoids(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    return x + torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(x.dtype)


@exercise.wrong(
    "numbers the positions itself instead of using those it is given",
    hint="Positions do not always run from 0: a cache starts later, a packed document starts "
    "again. Does your code use the values of `positions`?",
    see="rope#positions-are-not-always-0-to-t",
)
def own_positions(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = torch.arange(x.shape[-2]).unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "ignores the base",
    hint="The base decides how slow the last pair is. Try base=100.0: does your result change? An "
    "argument has to be passed on at every call.",
    see="rope#what-the-base-does",
)
def ignores_base(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * 10000.0 ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "halves the exponent: k/d instead of 2k/d",
    hint="The rotation is right, the angles are not. With d/2 pairs the exponent should run over "
    "the whole range from 0 almost to 1. Up to which number does yours run?",
    see="rope#the-angle-of-a-position",
)
def half_exponent(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "counts the pairs from 1 in a formula that counts from 0",
    hint="The rotation is right, the angles are not. The first pair turns by one radian per "
    "position. Which exponent gives that?",
    see="rope#the-angle-of-a-position",
)
def counts_from_one(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(1, d // 2 + 1, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "lines up the positions with the sequences of the batch",
    hint="Positions belong to the dimension before the last. Yours broadcast along the first. "
    "Compare the shapes of x and of your cosines, counted from the end.",
    see="rope#positions-are-not-always-0-to-t",
)
def batch_positions(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    if x.dim() > angles.dim():
        angles = angles.reshape(angles.shape[0], *[1] * (x.dim() - 2), d // 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "returns a wider dtype than it was given",
    hint="Angles want 32 bits or more, but a product takes the wider of two dtypes. What must "
    "happen to your cosines, or to your result, at the end?",
    see="rope#precision",
)
def widens(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float32)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().float(), angles.sin().float()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "rounds the positions to the dtype of x",
    hint="In bfloat16 the number after 256 is 258. Positions and angles need 32 bits even when the "
    "vectors have 16. At which point do you convert?",
    see="rope#precision",
)
def rounded_positions(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.to(x.dtype).unsqueeze(-1) * (base ** (-2 * k / d)).to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.wrong(
    "cuts the gradient",
    hint="The values are right, but nothing can be learnt through them. Look for detach, .data, "
    "no_grad or a new tensor made from the values of x.",
    see="rope#queries-and-keys-not-values",
)
def detached(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d // 2, dtype=torch.float64)
    angles = positions.unsqueeze(-1) * base ** (-2 * k / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.data[..., 0::2], x.data[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@exercise.right("even and odd slices, stacked")
def stacked(x, positions, base=10000.0):
    d = x.shape[-1]
    frequencies = base ** (-torch.arange(0, d, 2).float() / d)
    angles = positions[..., None] * frequencies
    cos, sin = torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


@exercise.right("complex multiplication")
def complex_product(x, positions, base=10000.0):
    d = x.shape[-1]
    angles = positions.double()[..., None] * base ** (-torch.arange(0, d, 2).double() / d)
    turn = torch.polar(torch.ones_like(angles), angles)
    z = torch.view_as_complex(x.double().reshape(*x.shape[:-1], d // 2, 2))
    return torch.view_as_real(z * turn).reshape(x.shape).to(x.dtype)


@exercise.right("x times cosine plus x turned by a right angle times sine")
def quarter_turn(x, positions, base=10000.0):
    d = x.shape[-1]
    k = torch.arange(d) // 2  # 0 0 1 1 2 2
    angles = positions.unsqueeze(-1).float() / base ** (2 * k / d)
    turned = torch.empty_like(x)
    turned[..., 0::2] = -x[..., 1::2]
    turned[..., 1::2] = x[..., 0::2]
    return (x * angles.cos() + turned * angles.sin()).to(x.dtype)


@exercise.right("a rotation matrix for every pair")
def matrices(x, positions, base=10000.0):
    d = x.shape[-1]
    angles = positions.unsqueeze(-1).double() * base ** (-2 * torch.arange(d // 2).double() / d)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    pairs = x.to(torch.float64).unflatten(-1, (d // 2, 2)).unsqueeze(-1)
    return (rows @ pairs).squeeze(-1).flatten(-2).to(x.dtype)


exercise.equivalent(
    "torch.arange(0, d, 2).float() -> torch.arange(0, d, 2)",
    because="dividing whole numbers gives floating point by itself",
)
