"""What stands beside attention in a block: normalisation and the position-wise feed-forward network.

Shapes: d per vector, d_ff inside the feed-forward network. Leading dimensions (...) are free.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmr_ref.attention import Implementation, require_implementation

Norm = Literal["rmsnorm", "layernorm", "nonparametric"]
Activation = Literal["swiglu", "gelu", "gelu_tanh", "relu"]


# --- normalisation -------------------------------------------------------------------------------


def layer_norm(
    x: Float[Tensor, "... d"],
    weight: Float[Tensor, " d"] | None = None,
    bias: Float[Tensor, " d"] | None = None,
    *,
    eps: float = 1e-5,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... d"]:
    """gamma (x - mean) / sqrt(variance + eps) + beta: the z-score of each vector, then an affine map.

    The variance is the population's (divided by d). Without weight and bias it is non-parametric.
    Raises: TypeError for an x that is not floating point; ValueError for a weight or bias that is
    not (d,), an eps that is not positive, or an unknown implementation.
    Source: L2 "Layer Norm"; L5 "Layer normalization"; Ba et al. 2016.
    """
    _check_norm(x, eps, implementation, weight=weight, bias=bias)
    if implementation == "fused":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = z - z.mean(dim=-1, keepdim=True)
    out = centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return out.to(x.dtype)


def rms_norm(
    x: Float[Tensor, "... d"],
    weight: Float[Tensor, " d"] | None = None,
    *,
    eps: float = 1e-5,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... d"]:
    """gamma x / sqrt(mean of x^2 + eps): a layer norm that neither centres nor shifts.

    Raises: as `layer_norm`.
    Source: Zhang and Sennrich 2019, equation 4; L4 model table.
    """
    _check_norm(x, eps, implementation, weight=weight)
    if implementation == "fused":
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    out = z * (z.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return (out if weight is None else out * weight).to(x.dtype)


class LayerNorm(nn.Module):
    """`layer_norm` with gamma = `weight`, 1 at first, and beta = `bias`, 0 at first.

    Raises: ValueError for a d_model or eps that is not positive.
    """

    def __init__(
        self,
        d_model: int,
        *,
        eps: float = 1e-5,
        weight: bool = True,
        bias: bool = True,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_size("d_model", d_model)
        self.eps = eps
        self.implementation: Implementation = implementation
        ones = torch.ones(d_model, device=device, dtype=dtype)
        self.weight = nn.Parameter(ones) if weight else None
        self.bias = nn.Parameter(torch.zeros_like(ones)) if bias else None

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Shapes: any in, the same out."""
        return layer_norm(
            x, self.weight, self.bias, eps=self.eps, implementation=self.implementation
        )


class RMSNorm(nn.Module):
    """`rms_norm` with gamma = `weight`, 1 at first.

    Raises: ValueError for a d_model that is not positive.
    """

    def __init__(
        self,
        d_model: int,
        *,
        eps: float = 1e-5,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_size("d_model", d_model)
        self.eps = eps
        self.implementation: Implementation = implementation
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Shapes: any in, the same out."""
        return rms_norm(x, self.weight, eps=self.eps, implementation=self.implementation)


def make_norm(
    kind: Norm,
    d_model: int,
    *,
    eps: float = 1e-5,
    bias: bool = False,
    implementation: Implementation = "fused",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The normalisation that a model's configuration names; `bias` is layernorm's beta.

    Raises: ValueError for an unknown kind.
    Source: L4 model table, rows "Layer norm type" and "Biases".
    """
    if kind not in get_args(Norm):
        raise ValueError(f"norm is {kind!r}; choose one of {', '.join(get_args(Norm))}")
    if kind == "rmsnorm":
        return RMSNorm(d_model, eps=eps, implementation=implementation, device=device, dtype=dtype)
    parametric = kind == "layernorm"
    return LayerNorm(
        d_model,
        eps=eps,
        weight=parametric,
        bias=parametric and bias,
        implementation=implementation,
        device=device,
        dtype=dtype,
    )


# --- the feed-forward network --------------------------------------------------------------------


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(0, x). Source: L2 "Feedforward layer"."""
    return x.clamp(min=0)


def gelu(
    x: Float[Tensor, "..."],
    *,
    approximate: Literal["none", "tanh"] = "none",
    implementation: Implementation = "fused",
) -> Float[Tensor, "..."]:
    """x Phi(x), Phi the normal distribution function, or its tanh approximation (GPT-2).

    Raises: ValueError for an unknown approximation or implementation.
    Source: Hendrycks and Gimpel 2016.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; choose 'none' or 'tanh'")
    require_implementation(implementation)
    if implementation == "fused":
        return F.gelu(x, approximate=approximate)
    if approximate == "none":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x: Float[Tensor, "..."], *, implementation: Implementation = "fused") -> Tensor:
    """x sigmoid(x).

    Raises: ValueError for an unknown implementation.
    Source: L1 slide 54; Elfwing et al. 2018.
    """
    require_implementation(implementation)
    return F.silu(x) if implementation == "fused" else x * torch.sigmoid(x)


def swiglu(
    x: Float[Tensor, "... d"],
    W1: Float[Tensor, "d_ff d"],
    W2: Float[Tensor, "d d_ff"],
    W3: Float[Tensor, "d_ff d"],
    *,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... d"]:
    """W2 (SiLU(W1 x) * W3 x): one projection gates the other.

    Raises: ValueError for weights whose shapes do not fit, or an unknown implementation.
    Source: L1 slide 54; Shazeer 2020, equation 6.
    """
    d, d_ff = x.shape[-1], W1.shape[0]
    expected = {"W1": (W1, (d_ff, d)), "W2": (W2, (d, d_ff)), "W3": (W3, (d_ff, d))}
    for name, (W, shape) in expected.items():
        if W.shape != shape:
            raise ValueError(f"{name} must be {shape} for an x of width {d}, got {tuple(W.shape)}")
    return (silu(x @ W1.T, implementation=implementation) * (x @ W3.T)) @ W2.T


def default_d_ff(d_model: int, activation: Activation) -> int:
    """4 d, or for SwiGLU, which has three matrices, 8/3 d rounded up to a multiple of 64."""
    return 64 * math.ceil(8 * d_model / 3 / 64) if activation == "swiglu" else 4 * d_model


class FeedForward(nn.Module):
    """The same two-layer network at every position: W2 act(W1 x), or `swiglu` with a gate W3.

    State: `w1.weight` (d_ff, d), `w2.weight` (d, d_ff), for SwiGLU `w3.weight` (d_ff, d); each with
    a `.bias` if `bias`.
    Raises: ValueError for an unknown activation or implementation, or sizes that are not positive.
    Source: L2 "Feedforward layer"; L3 "MLP"; L1 slide 54.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        activation: Activation = "swiglu",
        bias: bool = False,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            names = ", ".join(get_args(Activation))
            raise ValueError(f"activation is {activation!r}; choose one of {names}")
        require_implementation(implementation)
        _check_size("d_model", d_model)
        d_ff = default_d_ff(d_model, activation) if d_ff is None else d_ff
        _check_size("d_ff", d_ff)
        self.activation: Activation = activation
        self.implementation: Implementation = implementation
        self.w1 = nn.Linear(d_model, d_ff, bias=bias, device=device, dtype=dtype)
        self.w2 = nn.Linear(d_ff, d_model, bias=bias, device=device, dtype=dtype)
        if activation == "swiglu":
            self.w3 = nn.Linear(d_model, d_ff, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Shapes: (..., d_model) in, the same out."""
        h = self.w1(x)  # (..., d_ff)
        if self.activation == "swiglu":
            h = silu(h, implementation=self.implementation) * self.w3(x)
        elif self.activation == "relu":
            h = relu(h)
        else:
            approximate: Literal["none", "tanh"] = (
                "tanh" if self.activation == "gelu_tanh" else "none"
            )
            h = gelu(h, approximate=approximate, implementation=self.implementation)
        return self.w2(h)


# --- checks --------------------------------------------------------------------------------------


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")


def _check_norm(x: Tensor, eps: float, implementation: str, **parameters: Tensor | None) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"a norm needs a floating-point tensor, got {x.dtype}; convert with .float()"
        )
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}: it keeps a constant vector finite")
    require_implementation(implementation)
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} must be ({x.shape[-1]},), one number a dimension, "
                f"got {tuple(parameter.shape)}"
            )
