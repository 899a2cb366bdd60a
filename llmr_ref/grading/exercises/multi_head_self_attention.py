"""Exercise: multi-head self-attention as a module: state, forward and gradients."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmr_ref import attention
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "MultiHeadSelfAttention",
    points=5,
    difficulty=4,
    minutes=35,
    reference=attention.MultiHeadAttention,
    chapter="multi-head#side-by-side-then-mixed",
    forbids=("torch.nn.MultiheadAttention", "torch.nn.functional.multi_head_attention_forward"),
    rule="Split and merge the heads yourself; `nn.MultiheadAttention` is what you are rebuilding.",
)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "output_proj")


def layer(draw: Draw, x: Tensor, n_heads: int, mask: Tensor | None = None, **about) -> Case:
    """A call of the layer with weights of its own."""
    d = x.shape[-1]
    weights = {f"{name}.weight": draw.normal(d, d, scale=d**-0.5) for name in PROJECTIONS}
    kwargs = {} if mask is None else {"mask": mask}
    return Case((x,), kwargs, init={"d_model": d, "n_heads": n_heads}, state=weights, **about)


def random_mask(draw: Draw, *shape: int) -> Tensor:
    """Every position sees itself and one key of every two is hidden."""
    mask = draw.booleans(*shape)
    return mask | torch.eye(shape[-1], dtype=torch.bool)


@exercise.property("heads attend side by side, and the output projection mixes them", weight=2)
def unmasked(draw: Draw):
    # Bias-free projections turn zeros into zeros whatever their weights: this compares names.
    new = {"d_model": 4, "n_heads": 2}
    yield Case((torch.zeros(1, 1, 4),), init=new, note="new weights and an input of zeros")
    yield layer(draw, draw.normal(1, 2, 4), 2, note="two positions and two heads")
    yield layer(draw, draw.normal(2, 3, 8), 2, note="heads of width four")
    yield layer(draw, draw.normal(2, draw.integer(4, 6), 6), 3, note="three heads")
    yield layer(draw, draw.normal(2, 3, 4), 1, note="a single head")


@exercise.property("all heads share the mask", weight=1.5)
def masked(draw: Draw):
    causal = torch.ones(2, 2, dtype=torch.bool).tril()
    yield layer(draw, draw.normal(1, 2, 4), 2, causal, note="a causal mask")
    yield layer(draw, draw.normal(2, 5, 6), 3, random_mask(draw, 5, 5), note="a mask for a batch")
    yield layer(
        draw, draw.normal(2, 3, 4), 2, random_mask(draw, 2, 3, 3),
        note="two heads and two sequences, each with its mask",
    )  # fmt: skip
    yield layer(
        draw, draw.normal(3, 4, 8), 2, random_mask(draw, 3, 4, 4), note="a mask for each sequence"
    )


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield layer(draw, draw.normal(2, 4), 2, note="no batch dimension")
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    yield layer(draw, draw.normal(3, 6), 3, causal, note="no batch dimension and a mask")
    yield layer(draw, draw.normal(2, 1, 3, 4), 2, note="two leading dimensions")


@exercise.property("gradients reach the input and all four weights")
def gradients(draw: Draw):
    yield layer(draw, draw.normal(2, 3, 4), 2, gradients=True)
    mask = random_mask(draw, 4, 4)
    yield layer(draw, draw.normal(1, 4, 6), 3, mask, note="a mask", gradients=True)


@exercise.wrong(
    "splits positions into heads instead of the width",
    hint="A reshape keeps numbers in memory order. From (T, d_model) straight to (h, T, "
    "d_head), each head gets the whole width of some positions. Split the last dimension "
    "first; then which two change places?",
    see="multi-head#side-by-side-then-mixed",
)
class NoTranspose(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        *lead, T, d = x.shape
        q = self.q_proj(x).reshape(*lead, self.n_heads, T, d // self.n_heads)
        k = self.k_proj(x).reshape(*lead, self.n_heads, T, d // self.n_heads)
        v = self.v_proj(x).reshape(*lead, self.n_heads, T, d // self.n_heads)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.reshape(*lead, T, d))


@exercise.wrong(
    "concatenates the heads without bringing the positions back",
    hint="Your heads are right, and (h, T, d_head) has as many numbers as (T, d_model). A "
    "reshape alone mixes positions. Undo the steps of the split in the opposite order.",
    see="multi-head#side-by-side-then-mixed",
)
class WrongConcatenation(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.reshape(x.shape))


@exercise.wrong(
    "deals the coordinates out to the heads in turn",
    hint="Head 0 owns the first d_head coordinates, head 1 the next. Yours owns every h-th. In "
    "which order do the two new dimensions stand when you split the last one?",
    see="multi-head#side-by-side-then-mixed",
)
class InterleavedHeads(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (-1, self.n_heads)).movedim(-1, -3)
        k = self.k_proj(x).unflatten(-1, (-1, self.n_heads)).movedim(-1, -3)
        v = self.v_proj(x).unflatten(-1, (-1, self.n_heads)).movedim(-1, -3)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.movedim(-3, -1).flatten(-2))


@exercise.wrong(
    "attends with one head of full width",
    hint="The number of heads changes nothing in your result. One softmax serves the whole "
    "width; every head should have scores and weights of its own.",
    see="multi-head#side-by-side-then-mixed",
)
class OneHead(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        heads = F.scaled_dot_product_attention(
            self.q_proj(x), self.k_proj(x), self.v_proj(x), attn_mask=mask
        )
        return self.output_proj(heads)


@exercise.wrong(
    "leaves out the output projection",
    hint="The concatenated heads lie side by side and have not been mixed. Which of the four "
    "weights does your forward never use?",
    see="multi-head#side-by-side-then-mixed",
)
class NoOutput(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return heads.transpose(-3, -2).flatten(-2)


@exercise.wrong(
    "scales by the width of the model instead of the head",
    hint="A score of one head is a sum over the coordinates of that head alone. How many terms "
    "is that?",
    see="self-attention#the-square-root",
)
class ScaledByModel(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        scores = q @ k.transpose(-2, -1) / math.sqrt(x.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads = F.softmax(scores, dim=-1) @ v
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "does not scale the scores",
    hint="Without the scale the scores of wide heads are large and the softmax turns into a "
    "hard choice. Which factor of the formula is missing?",
    see="self-attention#the-square-root",
)
class NoScale(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        scores = q @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads = F.softmax(scores, dim=-1) @ v
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "normalises over the heads",
    hint="The heads do not compete with one another: each divides its attention among the "
    "keys. Along which dimension do your weights sum to 1?",
    see="multi-head#side-by-side-then-mixed",
)
class SoftmaxOverHeads(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads = F.softmax(scores, dim=-3).nan_to_num(0.0) @ v
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "ignores the mask",
    hint="The result does not change when keys are hidden. Does your forward hand the mask on "
    "to the attention?",
    see="masking#the-cheating-model",
)
class IgnoresMask(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        heads = F.scaled_dot_product_attention(q, k, v)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "hides the keys that the mask allows",
    hint="In this course True means that attending is allowed. `masked_fill` fills where its "
    "argument is True: is that where you want minus infinity?",
    see="masking#true-means-may-attend",
)
class Inverted(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask, -math.inf)
        heads = F.softmax(scores, dim=-1).nan_to_num(0.0) @ v
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "zeroes weights after the softmax without sharing them out again",
    hint="The hidden keys took part in the sum of the softmax, so the weights that remain sum "
    "to less than 1. At which step must a key disappear?",
    see="masking#minus-infinity-then-softmax",
)
class ZeroesWeights(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        if mask is not None:
            weights = weights * mask
        heads = weights @ v
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "lines up the masks of a batch with the heads",
    hint="Scores are (B, h, T, T), a mask for each sequence is (B, T, T). Counted from the "
    "end, the mask's batch meets your heads, and when both have the same size nothing "
    "raises. Where does a dimension of size 1 belong?",
    see="multi-head#side-by-side-then-mixed",
)
class MaskMeetsHeads(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "takes inputs with exactly one batch dimension",
    hint="The statement writes (..., T, d_model): no leading dimension, one, or several. Count "
    "your dimensions from the end, or keep the leading ones in a list.",
    see="multi-head#side-by-side-then-mixed",
)
class OneBatchDimension(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        B, T, d = x.shape
        q = self.q_proj(x).view(B, T, self.n_heads, -1).transpose(1, 2)
        k = self.k_proj(x).view(B, T, self.n_heads, -1).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.n_heads, -1).transpose(1, 2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.transpose(1, 2).reshape(B, T, d))


@exercise.wrong(
    "multiplies by the weights the wrong way round",
    hint="A linear layer's weight is (out, in), so the layer computes x times the transpose. "
    "Square weights hide the difference in shape. What does calling the layer itself do?",
    see="multi-head#side-by-side-then-mixed",
)
class TransposedWeights(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = (x @ self.q_proj.weight).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = (x @ self.k_proj.weight).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = (x @ self.v_proj.weight).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return heads.transpose(-3, -2).flatten(-2) @ self.output_proj.weight


@exercise.wrong(
    "uses the same projection for queries and keys",
    hint="With one weight for both, every position looks at what resembles it, and the scores "
    "are symmetric. Which of the four weights gets no gradient?",
    see="multi-head#side-by-side-then-mixed",
)
class SharedQueriesAndKeys(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "adds its input to the result",
    hint="The residual connection is the business of the block around this layer. The layer "
    "returns what the heads found and nothing else.",
    see="multi-head#side-by-side-then-mixed",
)
class AddsInput(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "gives its projections a bias",
    hint="`nn.Linear` adds a bias unless told otherwise. The state dict of your layer has "
    "eight entries where the statement has four.",
    see="multi-head#side-by-side-then-mixed",
)
class Biases(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "gives the weights other names",
    hint="Weights are loaded by name. Print the keys of your layer's `state_dict()` and "
    "compare them with the four names of the statement.",
    see="multi-head#side-by-side-then-mixed",
)
class OtherNames(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.W_o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.W_q(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.W_k(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.W_v(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.W_o(heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "keeps its weights where the module does not see them",
    hint="A plain list or a plain tensor is not a child and not a parameter: `state_dict()` is "
    "empty, and no optimiser would train it. Assign each layer to an attribute.",
    see="multi-head#side-by-side-then-mixed",
)
class PlainTensors(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.projections = [nn.Linear(d_model, d_model, bias=False) for _ in range(4)]

    def forward(self, x, mask=None):
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
            for project in self.projections[:3]
        )
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.projections[3](heads.transpose(-3, -2).flatten(-2))


@exercise.wrong(
    "cuts the gradient to queries and keys",
    hint="The values learn, but nothing teaches the layer where to look. Search for detach, "
    ".data or no_grad on the way from the scores to the weights.",
    see="masking#softmax-safely",
)
class Detached(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q.detach(), k.detach(), v, attn_mask=mask)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.right("torch's fused kernel on split heads")
class Fused(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        k = self.k_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)
        if mask is not None:
            mask = mask.unsqueeze(-3)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))


@exercise.right("einsum over heads, no transposes")
class Summations(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = torch.einsum("...thd,...shd->...hts", q, k) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = torch.where(mask[..., None, :, :], scores, float("-inf"))
        heads = torch.einsum("...hts,...shd->...thd", scores.softmax(-1), v)
        return self.output_proj(heads.flatten(-2))


@exercise.right("one head after another, concatenated")
class Loop(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)
        self.d_head = d_model // n_heads

    def forward(self, x, mask=None):
        outputs = []
        for n in range(self.n_heads):
            own = slice(n * self.d_head, (n + 1) * self.d_head)
            q = F.linear(x, self.q_proj.weight[own])
            k = F.linear(x, self.k_proj.weight[own])
            v = F.linear(x, self.v_proj.weight[own])
            scores = q @ k.mT / math.sqrt(self.d_head)
            if mask is not None:
                scores = scores.masked_fill(mask.logical_not(), -math.inf)
            outputs.append(torch.softmax(scores, dim=-1) @ v)
        return self.output_proj(torch.cat(outputs, dim=-1))


@exercise.right("heads as chunks, their outputs added through slices of the output weight")
class AddedHeads(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        outputs = 0.0
        chunks = [project(x).chunk(self.n_heads, dim=-1) for project in self.children()][:3]
        mixers = self.output_proj.weight.chunk(self.n_heads, dim=1)
        for q, k, v, mixer in zip(*chunks, mixers, strict=True):
            outputs = outputs + F.scaled_dot_product_attention(q, k, v, attn_mask=mask) @ mixer.T
        return outputs


@exercise.shortcut("torch's function for all heads")
class Functional(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.output_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        T, d = x.shape[-2:]
        rows = x.reshape(-1, T, d).transpose(0, 1)  # torch's function wants the batch second
        if mask is not None:
            mask = mask.expand(*x.shape[:-2], T, T).reshape(-1, T, T)
            mask = ~mask.repeat_interleave(self.n_heads, dim=0)
        out, _ = F.multi_head_attention_forward(
            rows, rows, rows, d, self.n_heads, None, torch.zeros(3 * d), None, None,
            False, 0.0, self.output_proj.weight, None, need_weights=False, attn_mask=mask,
            use_separate_proj_weight=True, q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight, v_proj_weight=self.v_proj.weight,
        )  # fmt: skip
        return out.transpose(0, 1).reshape(x.shape)
