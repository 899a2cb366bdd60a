"""Exercise: a whole decoder-only transformer, from tokens to logits."""

import math

import torch
import torch.nn.functional as F

from llmr_ref.config import TransformerConfig
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.transformer import Transformer


def reference(tokens, weights, n_heads):
    """Pre-norm, RMSNorm, SwiGLU, learned positions. Source: L1 "Transformer Language Modeling"."""
    vocab_size, d = weights["token_embeddings.weight"].shape
    d_head = weights["layers.0.attn.q_proj.weight"].shape[0] // n_heads
    tied = "lm_head.weight" not in weights
    config = TransformerConfig(
        vocab_size=vocab_size,
        d_model=d,
        n_layers=sum(name.endswith("ln1.weight") for name in weights),
        n_heads=n_heads,
        n_kv_heads=weights["layers.0.attn.k_proj.weight"].shape[0] // d_head,
        d_head=d_head,
        d_ff=weights["layers.0.ffn.w1.weight"].shape[0],
        max_length=len(weights["position_embeddings.weight"]),
        positions="learned",
        tie_embeddings=tied,
    )
    model = Transformer(config)
    state = {name: w for name, w in weights.items()}
    if tied:
        state["lm_head.weight"] = weights["token_embeddings.weight"]
    model.load_state_dict(state)
    return model(tokens).detach()


exercise = Exercise(
    "transformer_logits",
    points=5,
    difficulty=4,
    minutes=40,
    reference=reference,
    chapter="the-language-model#the-whole-forward-pass",
)


def model(draw: Draw, *shape, layers=1, h=2, kv=None, d_head=2, d_ff=6, V=7, tied=False, note=""):
    """A model with weights of its own; no two sizes are alike."""
    d, kv = 4 if h == 2 else 6, kv or h

    def matrix(out: int, width: int) -> torch.Tensor:
        return draw.normal(out, width, scale=1.2 * width**-0.5)

    def gain() -> torch.Tensor:
        return draw.normal(d, scale=0.3) + 1.2

    weights = {
        "token_embeddings.weight": draw.normal(V, d),
        "position_embeddings.weight": draw.normal(shape[-1] + 2, d, scale=0.7),
    }
    for n in range(layers):
        weights |= {
            f"layers.{n}.ln1.weight": gain(),
            f"layers.{n}.attn.q_proj.weight": matrix(h * d_head, d),
            f"layers.{n}.attn.k_proj.weight": matrix(kv * d_head, d),
            f"layers.{n}.attn.v_proj.weight": matrix(kv * d_head, d),
            f"layers.{n}.attn.output_proj.weight": matrix(d, h * d_head),
            f"layers.{n}.ln2.weight": gain(),
            f"layers.{n}.ffn.w1.weight": matrix(d_ff, d),
            f"layers.{n}.ffn.w2.weight": matrix(d, d_ff),
            f"layers.{n}.ffn.w3.weight": matrix(d_ff, d),
        }
    weights["ln_final.weight"] = gain()
    if not tied:
        weights["lm_head.weight"] = matrix(V, d)
    tokens = draw.integers(0, V - 1, *shape)
    return Case((tokens, weights, h), note=note, tolerance=1e-4)


@exercise.property("one layer: embedding, attention, network, head", weight=2)
def one_layer(draw: Draw):
    yield model(draw, 1, h=1, d_head=3, note="one token and one head")
    yield model(draw, 3, h=1, d_head=5, note="three tokens and one head")
    yield model(draw, 2, 4, note="two sequences and two heads")
    yield model(draw, 2, 3, 3, h=3, d_head=3, note="two leading dimensions")


@exercise.property("layers work one after the other")
def layers(draw: Draw):
    yield model(draw, 2, 3, layers=2, note="two layers")
    yield model(draw, 2, draw.integer(4, 6), layers=draw.integer(3, 4), h=3)


@exercise.property("heads of queries may share heads of keys and values")
def grouped(draw: Draw):
    yield model(draw, 2, 3, h=2, kv=1, note="two heads that share one")
    yield model(draw, 2, 4, layers=2, h=4, kv=2, note="four heads that share two")


@exercise.property("without an unembedding the table of the embedding takes its place")
def tied(draw: Draw):
    yield model(draw, 1, tied=True, note="one token and a tied table")
    yield model(draw, 2, 4, layers=2, tied=True, note="two layers and a tied table")


@exercise.wrong(
    "leaves out the positions",
    hint="Without them the model hardly knows order. Which table is not used?",
    see="the-language-model#embedding",
)
def no_positions(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    E = weights["token_embeddings.weight"]
    x = E[tokens]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "counts positions from 1",
    hint="The first token has position 0, and row 0 of the table.",
    see="the-language-model#embedding",
)
def positions_from_one(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][1 : T + 1]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "looks positions up by token",
    hint="The row of a position does not depend on what stands there.",
    see="the-language-model#embedding",
)
def positions_by_token(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][tokens % T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "lets positions see the future",
    hint="The logits at t predict token t + 1. What must attention not see?",
    see="the-language-model#the-whole-forward-pass",
)
def not_causal(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "uses the weights of the first layer in all layers",
    hint="Every layer has weights of its own. Where does the number of the layer enter the name?",
    see="the-language-model#the-whole-forward-pass",
)
def first_layer_again(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = "layers.0."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "runs one layer only",
    hint="How many layers there are is written in the names of the weights.",
    see="the-language-model#the-whole-forward-pass",
)
def single_layer(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while n < 1:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "runs two layers, however many there are",
    hint="The number of layers belongs to the model. Read it off the names.",
    see="the-language-model#the-whole-forward-pass",
)
def two_layers(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while n < 2 and f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "runs the layers in reverse",
    hint="Layer 0 reads the embeddings.",
    see="the-language-model#the-whole-forward-pass",
)
def backwards(tokens, weights, n_heads):
    n_layers = sum(name.endswith("ln1.weight") for name in weights)
    x = weights["token_embeddings.weight"][tokens]
    x = x + weights["position_embeddings.weight"][: x.shape[-2]]
    for n in reversed(range(n_layers)):
        w = {
            k: weights[f"layers.{n}.{k}.weight"]
            for k in (
                "ln1",
                "ln2",
                "ffn.w1",
                "ffn.w2",
                "ffn.w3",
                "attn.q_proj",
                "attn.k_proj",
                "attn.v_proj",
                "attn.output_proj",
            )
        }
        z = F.rms_norm(x, x.shape[-1:], w["ln1"], 1e-5)
        d_head = len(w["attn.q_proj"]) // n_heads
        Q, K, V = (
            (z @ w[f"attn.{p}_proj"].T).unflatten(-1, (-1, d_head)).transpose(-3, -2) for p in "qkv"
        )
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True, enable_gqa=True)
        x = x + A.transpose(-3, -2).flatten(-2) @ w["attn.output_proj"].T
        z = F.rms_norm(x, x.shape[-1:], w["ln2"], 1e-5)
        x = x + (F.silu(z @ w["ffn.w1"].T) * (z @ w["ffn.w3"].T)) @ w["ffn.w2"].T
    x = F.rms_norm(x, x.shape[-1:], weights["ln_final.weight"], 1e-5)
    return x @ weights.get("lm_head.weight", weights["token_embeddings.weight"]).T


@exercise.wrong(
    "forgets the residual around attention",
    hint="What attention returns is added to the stream. What does your stream hold after it?",
    see="block#the-residual-stream",
)
def no_first_residual(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "forgets the residual around the network",
    hint="Both layers of a block add to the stream.",
    see="block#the-residual-stream",
)
def no_second_residual(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "leaves out the final norm",
    hint="A pre-norm model ends in a norm, or the head would see a stream of any size.",
    see="the-language-model#the-final-norm",
)
def no_final_norm(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "normalises after the sums",
    hint="These are post-norm blocks. Here the norm stands before each layer.",
    see="block#pre-norm-and-post-norm",
)
def post_norm(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = x
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = norm(x + linear(A, layer + "attn.output_proj"), layer + "ln1")
        z = x
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = norm(x + linear(h, layer + "ffn.w2"), layer + "ln2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "applies SiLU to the gate",
    hint="SiLU belongs to w1, the gate is w3.",
    see="block#swiglu",
)
def gate_swapped(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = linear(z, layer + "ffn.w1") * F.silu(linear(z, layer + "ffn.w3"))
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "leaves out the output projection",
    hint="Where the widths agree nothing complains, but the heads have not been mixed.",
    see="block#grouped-query-attention",
)
def no_output_projection(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + A[..., : x.shape[-1]]
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "splits the heads the wrong way",
    hint="Rows n d_head to (n + 1) d_head - 1 of a projection are head n. Which of the "
    "two numbers comes first in the shape?",
    see="multi-head#side-by-side-then-mixed",
)
def interleaved_heads(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (-1, n)).movedim(-1, -3)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "deals shared heads out in turn",
    hint="Neighbouring heads of queries share. Which function repeats every head in place?",
    see="block#grouped-query-attention",
)
def tiled(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = torch.cat([heads(group, kv_heads)] * (n_heads // kv_heads), dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = torch.cat([V] * (n_heads // kv_heads), dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "uses the embedding as the head even when there is another",
    hint="A tied model has no `lm_head.weight`. What does this one have?",
    see="the-language-model#weight-tying",
)
def always_tied(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ E.T


@exercise.wrong(
    "gives all sequences the logits of the first",
    hint="Every sequence of a batch is a text of its own.",
    see="the-language-model#the-whole-forward-pass",
)
def first_sequence(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    x = x.reshape(-1, T, x.shape[-1])[:1].expand(tokens[..., 0].numel(), -1, -1).reshape(x.shape)
    return x @ weights.get("lm_head.weight", E).T


@exercise.wrong(
    "returns probabilities",
    hint="The forward pass ends in scores.",
    see="the-language-model#unembedding",
)
def sampled(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return (x @ weights.get("lm_head.weight", E).T).softmax(-1)


@exercise.right("names of weights, layer by layer")
def by_names(tokens, weights, n_heads):
    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"], 1e-5)

    def heads(x, n):
        return x.unflatten(-1, (n, -1)).transpose(-3, -2)

    T = tokens.shape[-1]
    E = weights["token_embeddings.weight"]
    x = E[tokens] + weights["position_embeddings.weight"][:T]
    n = 0
    while f"layers.{n}.ln1.weight" in weights:
        layer = f"layers.{n}."
        z = norm(x, layer + "ln1")
        Q = heads(linear(z, layer + "attn.q_proj"), n_heads)
        group = linear(z, layer + "attn.k_proj")
        d_head = Q.shape[-1]
        kv_heads = group.shape[-1] // d_head
        K = heads(group, kv_heads).repeat_interleave(n_heads // kv_heads, dim=-3)
        V = heads(linear(z, layer + "attn.v_proj"), kv_heads)
        V = V.repeat_interleave(n_heads // kv_heads, dim=-3)
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        A = A.transpose(-3, -2).flatten(-2)
        x = x + linear(A, layer + "attn.output_proj")
        z = norm(x, layer + "ln2")
        h = F.silu(linear(z, layer + "ffn.w1")) * linear(z, layer + "ffn.w3")
        x = x + linear(h, layer + "ffn.w2")
        n += 1
    x = norm(x, "ln_final")
    return x @ weights.get("lm_head.weight", E).T


@exercise.right("torch's grouped attention")
def with_gqa(tokens, weights, n_heads):
    n_layers = sum(name.endswith("ln1.weight") for name in weights)
    x = weights["token_embeddings.weight"][tokens]
    x = x + weights["position_embeddings.weight"][: x.shape[-2]]
    for n in range(n_layers):
        w = {
            k: weights[f"layers.{n}.{k}.weight"]
            for k in (
                "ln1",
                "ln2",
                "ffn.w1",
                "ffn.w2",
                "ffn.w3",
                "attn.q_proj",
                "attn.k_proj",
                "attn.v_proj",
                "attn.output_proj",
            )
        }
        z = F.rms_norm(x, x.shape[-1:], w["ln1"], 1e-5)
        d_head = len(w["attn.q_proj"]) // n_heads
        Q, K, V = (
            (z @ w[f"attn.{p}_proj"].T).unflatten(-1, (-1, d_head)).transpose(-3, -2) for p in "qkv"
        )
        A = F.scaled_dot_product_attention(Q, K, V, is_causal=True, enable_gqa=True)
        x = x + A.transpose(-3, -2).flatten(-2) @ w["attn.output_proj"].T
        z = F.rms_norm(x, x.shape[-1:], w["ln2"], 1e-5)
        x = x + (F.silu(z @ w["ffn.w1"].T) * (z @ w["ffn.w3"].T)) @ w["ffn.w2"].T
    x = F.rms_norm(x, x.shape[-1:], weights["ln_final.weight"], 1e-5)
    return x @ weights.get("lm_head.weight", weights["token_embeddings.weight"]).T


@exercise.right("heads one by one, sums instead of matrices of heads")
def head_by_head(tokens, weights, n_heads):
    def norm(x, gain):
        return gain * x / ((x * x).mean(-1, keepdim=True) + 1e-5).sqrt()

    T = tokens.shape[-1]
    future = torch.full((T, T), -math.inf).triu(1)
    x = F.embedding(tokens, weights["token_embeddings.weight"])
    x = x + weights["position_embeddings.weight"][torch.arange(T)]
    layers = {name.split(".")[1] for name in weights if name.startswith("layers.")}
    for layer in sorted(layers, key=int):
        w = {
            ".".join(name.split(".")[2:-1]): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        z = norm(x, w["ln1"])
        queries = w["attn.q_proj"].chunk(n_heads)
        d_head = len(queries[0])
        keys, values = w["attn.k_proj"].split(d_head), w["attn.v_proj"].split(d_head)
        mixers = w["attn.output_proj"].split(d_head, dim=1)
        added = torch.zeros_like(x)
        for head in range(n_heads):
            shared = head * len(keys) // n_heads
            scores = (z @ queries[head].T) @ (z @ keys[shared].T).mT / math.sqrt(d_head) + future
            added = added + scores.softmax(-1) @ (z @ values[shared].T) @ mixers[head].T
        x = x + added
        z = norm(x, w["ln2"])
        h = z @ w["ffn.w1"].T
        x = x + (h * torch.sigmoid(h) * (z @ w["ffn.w3"].T)) @ w["ffn.w2"].T
    head = weights["lm_head.weight" if "lm_head.weight" in weights else "token_embeddings.weight"]
    return norm(x, weights["ln_final.weight"]) @ head.T
