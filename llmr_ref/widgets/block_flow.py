"""Data through a transformer block: every step with its shape, and with small real numbers.

>>> BlockFlow()  # L2's block: pre-norm, layer norm, ReLU
>>> BlockFlow("post", batch=8, length=1024, d_model=768, n_heads=12)
>>> BlockFlow(block_function=residual_block)  # a student's function over the reference
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor, nn

from llmr_ref.attention import attention_weights
from llmr_ref.config import TransformerConfig
from llmr_ref.layers import default_d_ff
from llmr_ref.transformer import Attending, Block
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import heatmap_picture

TOKENS = ("I", "saw", "the", "dog")
N, D, HEADS, D_FF, DEPTH = 4, 4, 2, 6, 12  # of the block whose numbers are shown
_ATTENTION = ["q", "k", "v", "weights", "heads", "attn"]
STAGES = {
    "pre": ["x", "ln1", *_ATTENTION, "sum1", "ln2", "hidden", "ffn", "sum2"],
    "post": ["x", *_ATTENTION, "sum1", "ln1", "hidden", "ffn", "sum2", "ln2"],
    "parallel": ["x", "ln1", *_ATTENTION, "hidden", "ffn", "sum2"],
}
CAUSAL = Attending(mask=None, causal=True, bias=None, rotary=None)


def uniform_numbers(seed: int) -> Iterator[float]:
    """mulberry32: numbers in [0, 1), the same here and in the browser."""
    a = seed & 0xFFFFFFFF
    while True:
        a = (a + 0x6D2B79F5) & 0xFFFFFFFF
        t = ((a ^ a >> 15) * (1 | a)) & 0xFFFFFFFF
        t = (t + ((t ^ t >> 7) * (61 | t) & 0xFFFFFFFF) & 0xFFFFFFFF) ^ t
        yield (t ^ t >> 14) / 2**32


def draw_numbers(seed: int) -> tuple[Float[Tensor, "N D"], list[dict[str, Tensor]]]:
    """The input, and the matrices of each of the DEPTH blocks; numbers with one decimal."""
    numbers = uniform_numbers(seed)

    def matrix(rows: int, columns: int, size: float) -> Tensor:
        drawn = [round_to_tenth(size * (2 * next(numbers) - 1)) for _ in range(rows * columns)]
        return torch.tensor(drawn, dtype=torch.float64).view(rows, columns)

    x = matrix(N, D, 2.0)
    shapes = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D)}
    shapes |= {"w1": (D_FF, D), "w3": (D_FF, D), "w2": (D, D_FF)}
    return x, [{name: matrix(*shape, 1.0) for name, shape in shapes.items()} for _ in range(DEPTH)]


def round_to_tenth(x: float) -> float:
    return (x * 10 + 0.5) // 1 / 10


def make_block(weights: dict[str, Tensor], order: str, norm: str, activation: str) -> Block:
    """The reference's block with these matrices, and gains of 1."""
    config = TransformerConfig(
        vocab_size=2,
        d_model=D,
        n_layers=1,
        n_heads=HEADS,
        d_ff=D_FF,
        norm=norm,  # type: ignore[arg-type]
        block=order,  # type: ignore[arg-type]
        activation=activation,  # type: ignore[arg-type]
        positions="none",
    )
    block = Block(config, dtype=torch.float64)
    with torch.no_grad():
        for name, part in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "output_proj")):
            getattr(block.attn, part).weight.copy_(weights[name])
        for name in ("w1", "w2") + (("w3",) if activation == "swiglu" else ()):
            getattr(block.ffn, name).weight.copy_(weights[name])
    return block


@torch.no_grad()
def flow(x: Float[Tensor, "N D"], block: Block) -> dict[str, Tensor]:
    """What stands at every stage of the block, by its name in STAGES."""
    seen: dict[str, Tensor] = {"x": x}

    def watch(part: nn.Module, *, into: str = "", out: str = "") -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            if into:
                seen[into] = given[0]
            if out:
                seen[out] = answer

        return part.register_forward_hook(hook)

    order = block.config.block
    watched = [
        watch(block.attn.q_proj, out="q"),
        watch(block.attn.k_proj, out="k"),
        watch(block.attn.v_proj, out="v"),
        watch(block.attn.output_proj, into="heads"),
        watch(block.attn, out="attn"),
        watch(block.ffn.w2, into="hidden"),
        watch(block.ffn, out="ffn"),
        watch(block.ln1, out="ln1", into="sum1" if order == "post" else ""),
    ]
    if order != "parallel":
        watched.append(watch(block.ln2, out="ln2", into="sum1" if order == "pre" else "sum2"))
    result = block(x, CAUSAL)
    for handle in watched:
        handle.remove()
    if order != "post":
        seen["sum2"] = result
    Q, K = (seen[name].view(N, HEADS, -1).transpose(0, 1) for name in ("q", "k"))
    seen["weights"] = attention_weights(Q, K, causal=True).transpose(0, 1).flatten(1)
    return {name: seen[name] for name in STAGES[order]}


@torch.no_grad()
def stream_sizes(seed: int, scale: float, order: str, norm: str, activation: str) -> list[float]:
    """Root mean square of the stream before the first block and after each."""
    x, blocks = draw_numbers(seed)
    x = scale * x
    sizes = [rms(x)]
    for weights in blocks:
        x = make_block(weights, order, norm, activation)(x, CAUSAL)
        sizes.append(rms(x))
    return sizes


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


class BlockFlow(StudentsWidget):
    """The residual stream and its two branches, step by step: shapes at your sizes, numbers at small ones.

    order: "pre", "post" or "parallel". norm: "layernorm" or "rmsnorm". activation: "relu", "gelu" or
    "swiglu". batch, length, d_model, n_heads, d_ff (0: as usual): the sizes for which shapes are given.
    The numbers are those of 4 tokens of width 4 with 2 heads; `seed` draws them, `scale` multiplies the
    embeddings, `shown` is which of 12 blocks one sees, `stage` which step of it.
    block_function: a student's (x, attention, ffn, norm1, norm2, order) -> x, asked for every state with
    the reference's layers.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("block_flow")

    order = traitlets.Enum(tuple(STAGES), "pre").tag(sync=True)
    norm = traitlets.Enum(("layernorm", "rmsnorm"), "layernorm").tag(sync=True)
    activation = traitlets.Enum(("relu", "gelu", "swiglu"), "relu").tag(sync=True)
    batch = traitlets.Int(8).tag(sync=True)
    length = traitlets.Int(10).tag(sync=True)
    d_model = traitlets.Int(768).tag(sync=True)
    n_heads = traitlets.Int(12).tag(sync=True)
    d_ff = traitlets.Int(0).tag(sync=True)
    scale = traitlets.Float(1.0).tag(sync=True)
    seed = traitlets.Int(3).tag(sync=True)
    shown = traitlets.Int(1).tag(sync=True)
    stage = traitlets.Enum(tuple(STAGES["pre"]), "sum1").tag(sync=True)
    code = traitlets.List(
        [
            line
            for line in code_lines(
                Block.forward,
                begin="if self.config.block ==",
                norm1="self.ln1(",
                attn="self._attend(",
                norm2="self.ln2(",
                ffn="self.ffn(",
            )
            if "memory" not in line[0]  # an encoder's, which a language model has not
        ]
    ).tag(sync=True)

    def __init__(
        self, order: str = "pre", *, block_function: Callable[..., Any] | None = None, **more: Any
    ) -> None:
        if block_function is not None and not callable(block_function):
            raise TypeError(f"block_function must be callable, got {type(block_function).__name__}")
        self._block_function: Callable[..., Any] | None = None  # not asked before all is set
        super().__init__(order=order, **more)
        if self.d_model % self.n_heads:
            raise StateError(f"n_heads must divide d_model = {self.d_model}, got {self.n_heads}")
        self._block_function = block_function
        self._call_function()

    @traitlets.validate("batch", "length", "d_model", "n_heads", "d_ff", "scale", "seed", "shown")
    def _check_number(self, proposal: Any) -> Any:
        low, high = {
            "batch": (1, 4096),
            "length": (1, 131_072),
            "d_model": (1, 20_480),
            "n_heads": (1, 256),
            "d_ff": (0, 131_072),
            "scale": (0.01, 1000),
            "seed": (0, 2**32 - 1),
            "shown": (1, DEPTH),
        }[proposal["trait"].name]
        return within(proposal["trait"].name, proposal["value"], low, high)

    def numbers(self) -> dict[str, Tensor]:
        """The reference's numbers at every stage of the block that is shown."""
        x, block = self._block()
        return flow(x, block)

    @torch.no_grad()
    def _block(self) -> tuple[Tensor, Block]:
        x, all_weights = draw_numbers(self.seed)
        x = self.scale * x
        kinds = self.order, self.norm, self.activation
        for weights in all_weights[: self.shown - 1]:
            x = make_block(weights, *kinds)(x, CAUSAL)
        return x, make_block(all_weights[self.shown - 1], *kinds)

    _STATE = ("order", "norm", "activation", "scale", "seed", "shown")

    @traitlets.observe(*_STATE)
    def _call_function(self, change: Any = None) -> None:
        """Send what the student's function makes of the present block, or its error."""
        if self._block_function is not None:
            self._ask_about(self._STATE, self._checked)

    @torch.no_grad()
    def _checked(self) -> dict[str, Any]:
        assert self._block_function is not None
        x, block = self._block()
        layers = (
            lambda x: block.attn(x, causal=True),
            block.ffn,
            block.ln1,
            getattr(block, "ln2", block.ln1),
        )
        answer = torch.as_tensor(self._block_function(x.clone(), *layers, order=self.order))
        if answer.shape != x.shape:
            raise ValueError(
                f"it must return the shape of x, {tuple(x.shape)}, got {tuple(answer.shape)}"
            )
        if answer.is_complex() or not bool(answer.isfinite().all()):
            raise ValueError("it returned values that are not finite real numbers")
        answer = answer.detach().double()
        apart = (answer - block(x, CAUSAL)).abs()
        worst = int(apart.argmax())
        return {
            "output": answer.tolist(),
            "worst": [worst // D, worst % D],
            "difference": float(apart.max()),
        }

    def description(self) -> str:
        stages = self.numbers()
        first, last = rms(stages["x"]), rms(list(stages.values())[-1])
        sizes = stream_sizes(self.seed, self.scale, self.order, self.norm, self.activation)
        return (
            f"A {self.order}{'' if self.order == 'parallel' else '-norm'} block with {self.norm} and "
            f"{self.activation}. Numbers of shape (B, N, d) = ({self.batch}, {self.length}, "
            f"{self.d_model}) come in and go out. In the small example the stream's root mean square "
            f"is {first:.2f} before and {last:.2f} after; behind {DEPTH} blocks it is {sizes[-1]:.2f}."
        )

    def picture(self) -> str:
        result = list(self.numbers().values())[-1]
        return heatmap_picture(
            "What leaves the block: a vector per token",
            TOKENS,
            [f"dim {i}" for i in range(D)],
            result.tolist(),
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        for seed in (0, 4, 2**32 - 1):
            x, blocks = draw_numbers(seed)
            yield Golden("drawNumbers", [seed], {"x": x, "blocks": blocks})
        for seed, scale in ((4, 1.0), (4, 100.0), (9, 0.05)):
            x, blocks = draw_numbers(seed)
            for order in STAGES:
                for norm in ("layernorm", "rmsnorm"):
                    for activation in ("relu", "gelu", "swiglu"):
                        kinds = (order, norm, activation)
                        stages = flow(scale * x, make_block(blocks[2], *kinds))
                        yield Golden("blockFlow", [scale * x, blocks[2], *kinds], stages)
                        yield Golden(
                            "streamSizes",
                            [seed, scale, *kinds],
                            stream_sizes(seed, scale, *kinds),
                        )
        for d, activation in ((768, "gelu"), (4096, "swiglu"), (512, "relu"), (100, "swiglu")):
            yield Golden("defaultWidth", [d, activation], default_d_ff(d, activation))  # type: ignore[arg-type]
