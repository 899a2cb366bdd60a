"""The vision transformer: an image cut into patches is a sequence, and the encoder does the rest.

Shapes: images (..., C, H, W); patches of P x P pixels, N = (H / P) (W / P) of them, row by row, each
flattened to C P P numbers, channel by channel.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmr_ref.attention import Implementation, require_implementation
from llmr_ref.config import TransformerConfig
from llmr_ref.optim import AdamW, clip_gradients, cosine_schedule, parameter_groups
from llmr_ref.positions import sinusoidal_encoding
from llmr_ref.transformer import Stack, initialize

Pooling = Literal["class", "mean"]
ImagePositions = Literal["learned", "sinusoidal"]


# --- from an image to a sequence ------------------------------------------------------------------


def patchify(images: Float[Tensor, "... C H W"], patch_size: int) -> Float[Tensor, "... N CPP"]:
    """Cut images into square patches without overlap, row by row, each flattened.

    Raises: ValueError for fewer than three dimensions, or sides that patch_size does not divide.
    Source: Dosovitskiy et al. 2021, section 3.1; L4 "Vision Transformers".
    """
    _check_images(images, patch_size)
    rows = images.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))
    # (..., C, H/P, P, W/P, P) -> (..., H/P, W/P, C, P, P)
    patches = rows.movedim((-4, -2), (-5, -4))
    return patches.flatten(-3).flatten(-3, -2)


class PatchEmbedding(nn.Module):
    """A linear map of each patch, which is a convolution whose stride is its size.

    State: `weight` (d_model, C * P * P), (out, in); `bias` (d_model,).
    Raises: ValueError for sizes below 1, an unknown implementation, or images that do not fit.
    Source: Dosovitskiy et al. 2021, equation 1.
    """

    def __init__(
        self,
        patch_size: int,
        n_channels: int,
        d_model: int,
        *,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in {
            "patch_size": patch_size,
            "n_channels": n_channels,
            "d_model": d_model,
        }.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        require_implementation(implementation)
        self.patch_size, self.n_channels = patch_size, n_channels
        self.implementation: Implementation = implementation
        n_inputs = n_channels * patch_size**2
        weight = torch.empty(d_model, n_inputs, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight.normal_(std=1 / math.sqrt(n_inputs)))
        self.bias = nn.Parameter(torch.zeros(d_model, device=device, dtype=dtype))

    def forward(self, images: Float[Tensor, "... C H W"]) -> Float[Tensor, "... N d"]:
        """Shapes: images (..., C, H, W) in, a vector a patch out."""
        P, C = self.patch_size, self.n_channels
        _check_images(images, P)
        if images.shape[-3] != C:
            raise ValueError(f"images must have {C} channels, got {tuple(images.shape)}")
        if self.implementation == "explicit":
            return F.linear(patchify(images, P), self.weight, self.bias)
        kernel = self.weight.unflatten(1, (C, P, P))
        flat = images.flatten(0, -4) if images.dim() > 3 else images[None]
        grid = F.conv2d(flat, kernel, self.bias, stride=P)  # (B, d, H/P, W/P)
        return grid.flatten(2).transpose(1, 2).reshape(*images.shape[:-3], -1, len(self.weight))


def sinusoidal_encoding_2d(
    n_rows: int,
    n_columns: int,
    d: int,
    base: float = 10_000.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "N d"]:
    """The sinusoidal encoding of a patch's row, beside that of its column, d / 2 dimensions each.

    Raises: ValueError for a side below 1, or a d that is not positive and divisible by 4.
    Source: Dosovitskiy et al. 2021, appendix D.4 (2-d positions); Chen et al. 2021 (MoCo v3).
    """
    if n_rows < 1 or n_columns < 1:
        raise ValueError(f"n_rows and n_columns must be at least 1, got {n_rows} and {n_columns}")
    if d < 4 or d % 4:
        raise ValueError(f"d must be positive and divisible by 4: two encodings of pairs; got {d}")
    rows = torch.arange(n_rows, device=device).repeat_interleave(n_columns)
    columns = torch.arange(n_columns, device=device).repeat(n_rows)
    halves = [sinusoidal_encoding(places, d // 2, base, dtype=dtype) for places in (rows, columns)]
    return torch.cat(halves, dim=-1)


# --- the model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class VisionConfig:
    """The shape of a vision transformer; the defaults fit the 8 x 8 digits of scikit-learn.

    image_size: height and width in pixels. pooling: what the head reads, the vector of an added class
    token or the mean over patches. d_ff: 4 d_model if None.
    Raises: ValueError for sizes that are not positive or do not fit, or an unknown name.
    Source: Dosovitskiy et al. 2021, table 1, much reduced.
    """

    image_size: tuple[int, int] = (8, 8)
    patch_size: int = 4
    n_channels: int = 1
    n_classes: int = 10
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int | None = None
    pooling: Pooling = "mean"
    positions: ImagePositions = "learned"
    dropout: float = 0.1
    implementation: Implementation = "fused"

    def __post_init__(self) -> None:
        for name in ("patch_size", "n_channels", "n_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.image_size) != 2 or any(
            side < 1 or side % self.patch_size for side in self.image_size
        ):
            raise ValueError(
                f"image_size must be (height, width), multiples of patch_size = {self.patch_size}, "
                f"got {self.image_size}"
            )
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {self.pooling!r}; choose 'class' or 'mean'")
        if self.positions not in get_args(ImagePositions):
            raise ValueError(f"positions is {self.positions!r}; choose 'learned' or 'sinusoidal'")
        if self.positions == "sinusoidal" and self.d_model % 4:
            raise ValueError(
                f"sinusoidal positions need a d_model divisible by 4, got {self.d_model}"
            )
        _ = self.encoder  # its own checks

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def encoder(self) -> TransformerConfig:
        """The blocks between the patches and the head: bidirectional; classes are its vocabulary."""
        n_rows, n_columns = self.grid
        return TransformerConfig(
            vocab_size=self.n_classes,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            max_length=n_rows * n_columns + (self.pooling == "class"),
            norm="layernorm",
            norm_bias=True,
            activation="gelu",
            positions="learned" if self.positions == "learned" else "none",
            causal=False,
            bias=True,
            dropout=self.dropout,
            implementation=self.implementation,
        )


class VisionTransformer(nn.Module):
    """Patches, a linear embedding, positions, an encoder without a mask, and a linear head.

    State: `patch_embedding`, `class_token` (d_model,) if pooling is "class", `encoder...` as a
    `Transformer`'s blocks, `head.weight` (n_classes, d_model) and `head.bias`.
    Source: Dosovitskiy et al. 2021, equations 1 to 4; L4 "Vision Transformers".
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.patch_embedding = PatchEmbedding(
            config.patch_size,
            config.n_channels,
            d,
            implementation=config.implementation,
            device=device,
            dtype=dtype,
        )
        if config.pooling == "class":
            self.class_token = nn.Parameter(torch.zeros(d, device=device, dtype=dtype))
        self.encoder = Stack(config.encoder, device=device, dtype=dtype)
        self.head = nn.Linear(d, config.n_classes, device=device, dtype=dtype)
        initialize(self)
        if config.positions == "learned":
            # As large as sines, and as patches of unit variance: drawn as small as a language model's
            # they would hardly be seen beside the patches, and learned late.
            nn.init.normal_(self.encoder.position_embeddings.weight, std=1 / math.sqrt(2))

    def forward(self, images: Float[Tensor, "... C H W"]) -> Float[Tensor, "... classes"]:
        """Logits of the classes. Shapes: images (..., C, H, W) in, (..., n_classes) out.

        Raises: ValueError for images of another size or number of channels.
        """
        return self.head(self.features(images))

    def features(self, images: Float[Tensor, "... C H W"]) -> Float[Tensor, "... d"]:
        """The vector of an image that the head reads.

        Raises: as `forward`.
        """
        config = self.config
        if tuple(images.shape[-2:]) != tuple(config.image_size):
            raise ValueError(
                f"images must be (..., {config.n_channels}, {config.image_size[0]}, "
                f"{config.image_size[1]}), got {tuple(images.shape)}"
            )
        x = self.patch_embedding(images)  # (..., N, d)
        if config.positions == "sinusoidal":
            # The longest wave is a few times the grid; waves of 10,000 are the same everywhere on it.
            base = float(max(config.grid))
            x = x + sinusoidal_encoding_2d(
                *config.grid, config.d_model, base, device=x.device, dtype=x.dtype
            )
        if config.pooling == "class":
            first = self.class_token.expand(*x.shape[:-2], 1, -1)
            x = torch.cat((first, x), dim=-2)  # (..., 1 + N, d)
        x = self.encoder.run(x)
        return x[..., 0, :] if config.pooling == "class" else x.mean(dim=-2)


# --- training it --------------------------------------------------------------------------------


def train_classifier(
    model: nn.Module,
    images: Float[Tensor, "n C H W"],
    labels: Int[Tensor, " n"],
    *,
    epochs: int = 25,
    batch_size: int = 64,
    max_lr: float = 5e-3,
    weight_decay: float = 0.05,
    max_norm: float = 1.0,
    seed: int = 0,
) -> list[float]:
    """Minimise the cross-entropy by AdamW, with warm-up over a tenth and a cosine; losses by epoch.

    Moves the model's weights, in place, on their device. The seed sets the order of the images; what
    dropout leaves out is torch's own seed's business. Pixels should have unit variance.
    Raises: ValueError for counts that are not positive, or images and labels that do not go together.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"need one label an image, got {len(images)} and {len(labels)}")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    weight = next(model.parameters())
    images, labels = images.to(weight.device, weight.dtype), labels.to(weight.device)
    optimizer = AdamW(parameter_groups(model, weight_decay), lr=max_lr)
    generator = torch.Generator().manual_seed(seed)
    total_steps = epochs * math.ceil(len(images) / batch_size)
    losses = []
    step = 0
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator).to(images.device)
        summed = torch.zeros((), device=images.device)
        for chosen in order.split(batch_size):
            step += 1  # the first step already moves
            lr = cosine_schedule(
                step,
                max_lr=max_lr,
                min_lr=0.0,
                warmup_steps=total_steps // 10,
                total_steps=total_steps + 1,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = F.cross_entropy(model(images[chosen]).float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(model.parameters(), max_norm)
            optimizer.step()
            summed += loss.detach() * len(chosen)
        losses.append(summed.item() / len(images))
    return losses


@torch.no_grad()
def accuracy(
    model: nn.Module,
    images: Float[Tensor, "n C H W"],
    labels: Int[Tensor, " n"],
    *,
    batch_size: int = 512,
) -> float:
    """The fraction of images whose highest logit is their label's; dropout off, mode kept.

    Raises: ValueError for images and labels that do not go together, or a batch_size below 1.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"need one label an image, got {len(images)} and {len(labels)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    weight = next(model.parameters())
    was_training = model.training
    model.eval()
    right = 0
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        guess = model(x.to(weight.device, weight.dtype)).argmax(-1)
        right += int((guess == y.to(weight.device)).sum())
    model.train(was_training)
    return right / len(images)


def _check_images(images: Tensor, patch_size: int) -> None:
    if images.dim() < 3 or patch_size < 1 or any(side % patch_size for side in images.shape[-2:]):
        raise ValueError(
            f"images must be (..., C, H, W) with sides that patch_size = {patch_size} divides, "
            f"got {tuple(images.shape)}"
        )
