"""Quantisation: weights as integers of 8 or 4 bits, and the few numbers that turn them back.

x is what is stored, q its integer code, s the scale, z the zero point, b the bits.
One s (and z) serves a whole tensor, a channel (a vector along the last dimension: the weights of one
output), or a group of neighbours in a channel.
"""

import collections
import copy
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

Scheme = Literal["absmax", "zero_point"]
Granularity = Literal["tensor", "channel", "group"]

_SIGN_OFFSET = 8  # 4-bit codes -7..7 are kept as 1..15


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes and what turns them back into numbers: x = s (q - z), without z for absmax.

    `codes`: at 8 bits int8 (absmax) or uint8 (zero_point) in x's shape; at 4 bits two to a byte, see
    `pack`. `scale`: (1,), (..., 1) or (..., groups), at least float32. `zero_point`: uint8, as scale.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    shape: torch.Size
    bits: int
    granularity: Granularity
    dtype: torch.dtype

    def integers(self) -> Int[Tensor, "..."]:
        """q in x's shape: int8 within +-(2^(b-1) - 1) for absmax, uint8 in 0..2^b - 1 otherwise."""
        if self.bits == 8:
            return self.codes
        q = unpack(self.codes, self.shape[-1] if self.shape else 1).reshape(self.shape)
        return q if self.zero_point is not None else q.to(torch.int8) - _SIGN_OFFSET

    def dequantize(self) -> Float[Tensor, "..."]:
        """s (q - z), in the shape and dtype of what was quantised."""
        q = _in_groups(self.integers(), self.granularity, self.scale.shape[-1])
        # In float32 even if the scales were converted to 16 bits along with a model.
        scale = self.scale.to(torch.promote_types(self.scale.dtype, torch.float32))
        if self.zero_point is not None:
            q = q.to(scale.dtype) - self.zero_point[..., None]
        return (q * scale[..., None]).reshape(self.shape).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Codes, scales and zero points together."""
        parts = (self.codes, self.scale, self.zero_point)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def bits_per_value(self) -> float:
        """What a number really takes, scales and zero points included."""
        return 8 * self.nbytes / self.shape.numel()


def quantize(
    x: Float[Tensor, "..."],
    *,
    bits: int = 8,
    scheme: Scheme = "absmax",
    granularity: Granularity = "tensor",
    group_size: int | None = None,
) -> QuantizedTensor:
    """Round x to 2^b levels, evenly spaced over the range of each tensor, channel or group.

    absmax: s = max |x| / (2^(b-1) - 1), q = round(x / s): symmetric, zero is code zero.
    zero_point: s = (max - min) / (2^b - 1) over a range that holds zero, z = round(-min / s),
    q = round(x / s) + z: no level is wasted on a skewed range, and zero is exact too.
    Either way |x - s (q - z)| <= s / 2.
    Raises: ValueError for bits, a scheme or a granularity that does not exist, a group_size that does
    not divide the last dimension, or an x that is empty, infinite or nan; TypeError for an x that is
    not floating point.
    Source: L4 "Quantization"; Jacob et al. 2018, equation 1; Dettmers et al. 2022, section 2.
    """
    _check(x, bits, scheme, granularity, group_size)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    n_groups = x.shape[-1] // group_size if group_size else 1
    values = _in_groups(wide, granularity, n_groups)  # (..., groups, group_size)
    # A range of nothing but zeros gets the smallest scale, any scale would do.
    smallest = torch.finfo(wide.dtype).tiny
    if scheme == "absmax":
        largest = 2 ** (bits - 1) - 1
        scale = (values.abs().amax(-1) / largest).clamp(min=smallest)
        q = (values / scale[..., None]).round().to(torch.int8)
        zero_point = None
    else:
        largest = 2**bits - 1
        low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
        # Each divided first: the difference could be larger than any float.
        scale = (high / largest - low / largest).clamp(min=smallest)
        z = (-low / scale).round()
        # Where both ends fall between two levels, both may be rounded up: one level too many.
        q = ((values / scale[..., None]).round() + z[..., None]).clamp(max=largest).to(torch.uint8)
        zero_point = z.to(torch.uint8)
    q = q.reshape(x.shape)
    if bits == 4:
        nibbles = q if zero_point is not None else (q + _SIGN_OFFSET).to(torch.uint8)
        q = pack(torch.atleast_1d(nibbles))
    return QuantizedTensor(q, scale, zero_point, x.shape, bits, granularity, x.dtype)


def pack(nibbles: UInt8[Tensor, "... n"]) -> UInt8[Tensor, "... n/2"]:
    """Two numbers of 0..15 a byte along the last dimension, the first in the low half.

    An odd one out shares its byte with a zero.
    Raises: TypeError for a tensor that is not uint8; ValueError for a number above 15.
    """
    if nibbles.dtype != torch.uint8:
        raise TypeError(f"nibbles must be uint8, got {nibbles.dtype}")
    if not nibbles.is_meta and (nibbles > 15).any():
        raise ValueError(f"a nibble holds 0..15, got {int(nibbles.max())}")
    pairs = F.pad(nibbles, (0, nibbles.shape[-1] % 2)).unflatten(-1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4


def unpack(packed: UInt8[Tensor, "... n/2"], n: int) -> UInt8[Tensor, "... n"]:
    """The n numbers that `pack` put away.

    Raises: TypeError for a tensor that is not uint8; ValueError for an n that these bytes do not hold.
    """
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed must be uint8, got {packed.dtype}")
    if (n + 1) // 2 != packed.shape[-1]:
        raise ValueError(f"{packed.shape[-1]} bytes do not hold n = {n} numbers of 4 bits")
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)[..., :n]


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W (out, in) kept as codes and turned back at every call.

    `weight` is W as it is used, without gradient; inputs and bias have theirs.
    State: `codes`, `scale`, `zero_point` (not for absmax) as in `QuantizedTensor`; `bias`.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, weight: QuantizedTensor, bias: Float[Tensor, " out"] | None = None) -> None:
        super().__init__()
        if len(weight.shape) != 2:
            raise ValueError(f"weight must be (out, in), got {tuple(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
        self.out_features, self.in_features = weight.shape
        self.bits, self.granularity, self.dtype = weight.bits, weight.granularity, weight.dtype
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero_point", weight.zero_point)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        bits: int = 8,
        scheme: Scheme = "absmax",
        granularity: Granularity = "channel",
        group_size: int | None = None,
    ) -> "QuantizedLinear":
        """The same layer with quantised weights; `linear` is left as it is. Raises: as `quantize`."""
        weight = quantize(
            linear.weight.detach(),
            bits=bits,
            scheme=scheme,
            granularity=granularity,
            group_size=group_size,
        )
        return cls(weight, linear.bias)

    def quantized(self) -> QuantizedTensor:
        """The weights as they are stored."""
        return QuantizedTensor(
            self.codes,
            self.scale,
            self.zero_point,
            torch.Size((self.out_features, self.in_features)),
            self.bits,
            self.granularity,
            self.dtype,
        )

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        return self.quantized().dequantize()

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Shapes: (..., in) in, (..., out) out, in x's dtype."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.bits} bits per {self.granularity}"


def quantize_model(
    model: nn.Module,
    *,
    bits: int = 8,
    scheme: Scheme = "absmax",
    group_size: int | None = None,
    skip: Sequence[str] = (),
) -> nn.Module:
    """A copy of the model whose linear layers are `QuantizedLinear`; the model is left as it is.

    Per group of `group_size` inputs, or per channel if None. Left alone: layers whose name matches a
    pattern in `skip` ("lm_head", "layers.0.*"), and those whose weight another module has too (tied
    embeddings), for the other would keep it anyway.
    Raises: ValueError as `quantize`, with the layer's name, or for a pattern that matches no layer.
    """
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) is nn.Linear
    ]
    for pattern in skip:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"skip names {pattern!r}, but no linear layer is called that")
    quantized = copy.deepcopy(model)
    owners = collections.Counter(
        id(p) for module in quantized.modules() for p in module.parameters(recurse=False)
    )
    replaced: dict[nn.Module, QuantizedLinear] = {}  # a layer that is used twice stays one layer
    for name in names:
        layer = quantized.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if owners[id(layer.weight)] > 1 or any(fnmatch.fnmatchcase(name, p) for p in skip):
            continue
        if layer not in replaced:
            try:
                replaced[layer] = QuantizedLinear.from_linear(
                    layer,
                    bits=bits,
                    scheme=scheme,
                    granularity="channel" if group_size is None else "group",
                    group_size=group_size,
                )
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
            replaced[layer].train(layer.training)
        if not name:
            return replaced[layer]
        quantized.set_submodule(name, replaced[layer])
    return quantized


@dataclass(frozen=True)
class QuantizationError:
    """How far codes are from what they stand for, and what they take.

    `relative_error` is |x - x'| / |x|, the root mean square error over that of x; `snr_db` is the
    same as a signal-to-noise ratio, 20 log10(|x| / |x - x'|), about 6 dB for each bit.
    """

    max_error: float
    relative_error: float
    snr_db: float
    bytes_before: int
    bytes_after: int


def quantization_error(x: Float[Tensor, "..."], quantized: QuantizedTensor) -> QuantizationError:
    """Error and size of `quantized` against the x it was made from.

    Raises: ValueError for shapes that differ.
    """
    if x.shape != quantized.shape:
        raise ValueError(f"x is {tuple(x.shape)}, but {tuple(quantized.shape)} was quantised")
    error = x.double() - quantized.dequantize().double()
    noise, signal = error.norm().item(), x.double().norm().item()
    return QuantizationError(
        max_error=error.abs().max().item(),
        relative_error=noise / signal if signal else 0.0,
        snr_db=20 * math.log10(signal / noise) if noise else math.inf,
        bytes_before=x.nbytes,
        bytes_after=quantized.nbytes,
    )


def quantization_report(model: nn.Module, quantized: nn.Module) -> dict[str, QuantizationError]:
    """By layer name, each quantised layer of `quantized` against the layer of `model` it replaced.

    Raises: ValueError if `quantized` is no copy of `model` from `quantize_model`.
    """
    before = dict(model.named_modules())
    report = {}
    for name, layer in quantized.named_modules():
        if isinstance(layer, QuantizedLinear):
            original = before.get(name)
            if not isinstance(original, nn.Linear):
                raise ValueError(f"model has no linear layer {name!r} to compare with")
            report[name] = quantization_error(original.weight, layer.quantized())
    return report


def state_bytes(model: nn.Module) -> int:
    """Bytes of all that a model saves, each shared tensor once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.nbytes for t in tensors.values())


def _in_groups(x: Tensor, granularity: Granularity, n_groups: int) -> Tensor:
    """(..., groups, values that share a scale)."""
    return x.reshape(1, -1) if granularity == "tensor" else x.unflatten(-1, (n_groups, -1))


def _check(x: Tensor, bits: int, scheme: str, granularity: str, group_size: int | None) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits}")
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme is {scheme!r}; choose 'absmax' or 'zero_point'")
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity is {granularity!r}; choose 'tensor', 'channel' or 'group'")
    if x.numel() == 0 or (x.dim() == 0 and granularity != "tensor"):
        raise ValueError(f"no values to share a scale per {granularity} in shape {tuple(x.shape)}")
    if (group_size is not None) != (granularity == "group"):
        raise ValueError(
            f"granularity 'group' and a group_size go together, got {granularity!r} and {group_size}"
        )
    if group_size is not None and (group_size < 1 or x.shape[-1] % group_size):
        raise ValueError(
            f"group_size must divide the last dimension, {x.shape[-1]}, got {group_size}"
        )
    if not x.is_meta and not x.isfinite().all():
        raise ValueError(
            "x must be finite: an infinite or nan value leaves no scale for the others"
        )
