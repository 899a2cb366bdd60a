"""The vision transformer against torch's convolution and unfold, Hugging Face's ViT, and digits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.testing import assert_close
from transformers import ViTConfig, ViTForImageClassification

from llmr_ref import vision
from llmr_ref.optim import cosine_schedule
from llmr_ref.vision import (
    PatchEmbedding,
    VisionConfig,
    VisionTransformer,
    accuracy,
    patchify,
    sinusoidal_encoding_2d,
    train_classifier,
)

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
POOLINGS = pytest.mark.parametrize("pooling", ["class", "mean"])
# Height, width, patches, channels and classes all differ.
ODD = {
    "image_size": (8, 12),
    "patch_size": 4,
    "n_channels": 2,
    "n_classes": 5,
    "d_model": 24,
    "n_heads": 3,
    "d_ff": 40,
    "dropout": 0.0,
}


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def odd_model(seed=0, dtype=torch.float64, **changes):
    """Weights that differ from what they are at first: gains from 1, biases from 0."""
    torch.manual_seed(seed)
    model = VisionTransformer(VisionConfig(**{**ODD, **changes}), dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


# --- patches ------------------------------------------------------------------------------------


@given(
    P=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    C=st.integers(1, 3),
    B=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_patches_are_torchs_unfold(P, rows, columns, C, B, seed):
    images = randn(B, C, rows * P, columns * P, seed=seed)
    expected = F.unfold(images, P, stride=P).mT
    assert torch.equal(patchify(images, P), expected)
    assert torch.equal(patchify(images[0], P), expected[0])
    assert torch.equal(patchify(images[:, None], P), expected[:, None])


@given(
    P=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    C=st.integers(1, 3),
    lead=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_a_patch_embedding_is_a_convolution_with_stride_either_way(P, rows, columns, C, lead, seed):
    images = randn(*lead, C, rows * P, columns * P, seed=seed)
    outputs = {}
    for implementation in ("fused", "explicit"):
        module = PatchEmbedding(P, C, 5, implementation=implementation, dtype=torch.float64)
        with torch.no_grad():
            module.weight.copy_(randn(5, C * P * P, seed=1))
            module.bias.copy_(randn(5, seed=2))
        outputs[implementation] = module(images)
    kernel = randn(5, C * P * P, seed=1).reshape(5, C, P, P)
    flat = images.reshape(-1, C, rows * P, columns * P)
    convolved = F.conv2d(flat, kernel, randn(5, seed=2), stride=P).flatten(2).mT
    expected = convolved.reshape(*lead, rows * columns, 5)
    assert_close(outputs["explicit"], expected)
    assert_close(outputs["fused"], expected)


def test_both_ways_have_the_same_gradients():
    images = randn(3, 2, 8, 12, seed=0)
    gradients = []
    for implementation in ("fused", "explicit"):
        torch.manual_seed(0)
        module = PatchEmbedding(4, 2, 6, implementation=implementation, dtype=torch.float64)
        x = images.clone().requires_grad_()
        module(x).square().sum().backward()
        gradients.append((x.grad, module.weight.grad, module.bias.grad))
    for fused, explicit in zip(*gradients, strict=True):
        assert_close(fused, explicit)


def test_patches_of_unit_variance_become_vectors_of_unit_variance():
    torch.manual_seed(0)
    module = PatchEmbedding(8, 3, 2000)
    # 2000 x 50 numbers of 192 terms each: the variance is known to a few per cent.
    out = module(randn(50, 3, 8, 8, seed=0, dtype=torch.float32))
    assert_close(out.var().item(), 1.0, rtol=0.1, atol=0)
    assert not module.bias.any()


# --- positions on a grid ------------------------------------------------------------------------


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    quarter=st.integers(1, 4),
    base=st.sampled_from([2.0, 100.0, 10_000.0]),
)
def test_a_row_and_a_column_are_encoded_side_by_side(rows, columns, quarter, base):
    d = 4 * quarter
    encoding = sinusoidal_encoding_2d(rows, columns, d, base, dtype=torch.float64)
    assert encoding.shape == (rows * columns, d)
    for n, vector in enumerate(encoding):
        place = (n // columns, n % columns)
        for half, position in zip(vector.split(d // 2), place, strict=True):
            for i in range(quarter):
                angle = position / base ** (2 * i / (d // 2))
                assert_close(half[2 * i].item(), math.sin(angle), rtol=0, atol=1e-12)
                assert_close(half[2 * i + 1].item(), math.cos(angle), rtol=0, atol=1e-12)


def test_positions_live_where_and_as_asked():
    assert sinusoidal_encoding_2d(2, 3, 8, device="meta").is_meta
    assert sinusoidal_encoding_2d(2, 3, 8).dtype == torch.float32
    assert sinusoidal_encoding_2d(2, 3, 8, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(sinusoidal_encoding_2d(2, 3, 8), sinusoidal_encoding_2d(2, 3, 8, 10_000.0))


# --- the whole model against Hugging Face ---------------------------------------------------------


def hugging_face(model):
    """The same weights in Hugging Face's ViT."""
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=(8, 12),
        patch_size=4,
        num_channels=2,
        num_labels=5,
        layer_norm_eps=1e-5,
        attn_implementation="sdpa",
    )
    ours = model.state_dict()
    theirs = {
        "vit.embeddings.cls_token": ours["class_token"][None, None],
        "vit.embeddings.position_embeddings": ours["encoder.position_embeddings.weight"][None],
        "vit.embeddings.patch_embeddings.projection.weight": ours["patch_embedding.weight"].reshape(
            24, 2, 4, 4
        ),
        "vit.embeddings.patch_embeddings.projection.bias": ours["patch_embedding.bias"],
        "vit.layernorm.weight": ours["encoder.ln_final.weight"],
        "vit.layernorm.bias": ours["encoder.ln_final.bias"],
        "classifier.weight": ours["head.weight"],
        "classifier.bias": ours["head.bias"],
    }
    names = {
        "attn.q_proj": "attention.q_proj",
        "attn.k_proj": "attention.k_proj",
        "attn.v_proj": "attention.v_proj",
        "attn.output_proj": "attention.o_proj",
        "ln1": "layernorm_before",
        "ln2": "layernorm_after",
        "ffn.w1": "mlp.fc1",
        "ffn.w2": "mlp.fc2",
    }
    for n in range(2):
        for mine, its in names.items():
            for kind in ("weight", "bias"):
                theirs[f"vit.layers.{n}.{its}.{kind}"] = ours[f"encoder.layers.{n}.{mine}.{kind}"]
    peer = ViTForImageClassification(config).double().eval()
    peer.load_state_dict(theirs)
    return peer


@BOTH
def test_logits_are_hugging_faces(implementation):
    model = odd_model(pooling="class", implementation=implementation)
    images = randn(3, 2, 8, 12, seed=1)
    with torch.no_grad():
        assert_close(model(images), hugging_face(model)(images).logits)


def test_features_are_the_class_tokens_last_vector():
    model = odd_model(pooling="class")
    images = randn(3, 2, 8, 12, seed=1)
    with torch.no_grad():
        hidden = hugging_face(model).vit(images).last_hidden_state
        assert_close(model.features(images), hidden[:, 0])


def test_mean_pooling_averages_the_patches():
    torch.manual_seed(0)
    model = odd_model(pooling="mean")
    images = randn(3, 2, 8, 12, seed=1)
    with torch.no_grad():
        vectors = model.encoder.run(model.patch_embedding(images))
        assert vectors.shape == (3, 6, 24)
        assert_close(model.features(images), vectors.sum(dim=1) / 6)


# --- what follows from the architecture -----------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_positions_tell_patches_apart_and_nothing_else_does(positions):
    model = odd_model(positions=positions)
    images = randn(3, 2, 8, 12, seed=1)
    swapped = torch.cat((images[..., 4:8], images[..., :4], images[..., 8:]), dim=-1)
    with torch.no_grad():
        assert not torch.allclose(model(swapped), model(images))
        if positions == "learned":
            model.encoder.position_embeddings.weight.zero_()
            assert_close(model(swapped), model(images))


def test_sinusoidal_positions_are_added_to_the_patches_alone():
    model = odd_model(positions="sinusoidal", pooling="class")
    images = randn(3, 2, 8, 12, seed=1)
    with torch.no_grad():
        places = sinusoidal_encoding_2d(2, 3, 24, 3.0, dtype=torch.float64)  # a grid of 2 by 3
        patches = model.patch_embedding(images) + places
        sequence = torch.cat((model.class_token.expand(3, 1, 24), patches), dim=1)
        assert_close(model(images), model.head(model.encoder.run(sequence)[:, 0]))


@POOLINGS
def test_every_patch_is_seen_by_every_other(pooling):
    model = odd_model(pooling=pooling)
    images = randn(1, 2, 8, 12, seed=1).requires_grad_()
    model(images)[0, 0].backward()
    assert (images.grad != 0).all()


@POOLINGS
@BOTH
def test_leading_dimensions_are_free_and_images_independent(pooling, implementation):
    model = odd_model(pooling=pooling, implementation=implementation)
    images = randn(3, 4, 2, 8, 12, seed=1)
    before = images.clone()
    with torch.no_grad():
        out = model(images)
        assert out.shape == (3, 4, 5)
        assert_close(out[1, 2], model(images[1, 2]))
        assert_close(out[2], model(images[2]))
        strided = images.transpose(-1, -2).contiguous().transpose(-1, -2)
        assert_close(model(strided), out)
    assert torch.equal(images, before)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_dtype_in_is_dtype_out(implementation, dtype, positions):
    model = odd_model(dtype=dtype, implementation=implementation, positions=positions)
    with torch.no_grad():
        assert model(randn(2, 2, 8, 12, seed=0, dtype=dtype)).dtype == dtype


@POOLINGS
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_device_is_where_it_was_asked_for(pooling, positions):
    config = VisionConfig(**{**ODD, "pooling": pooling, "positions": positions})
    model = VisionTransformer(config, device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert model(torch.zeros(2, 2, 8, 12, device="meta")).is_meta


@POOLINGS
def test_every_parameter_is_trained(pooling):
    model = odd_model(pooling=pooling)
    F.cross_entropy(model(randn(4, 2, 8, 12, seed=0)), torch.tensor([0, 1, 4, 2])).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if not name.endswith("k_proj.bias"):  # adds the same to all scores of a query
            assert (p.grad != 0).any(), name


def test_learned_positions_begin_as_large_as_sines():
    torch.manual_seed(0)
    model = VisionTransformer(VisionConfig(image_size=(64, 64), d_model=128))
    weight = model.encoder.position_embeddings.weight
    assert weight.shape == (256, 128)
    assert_close(weight.std().item(), math.sqrt(0.5), rtol=0.02, atol=0)
    assert_close(sinusoidal_encoding_2d(16, 16, 128).square().mean().item(), 0.5)


def test_the_encoder_is_bidirectional_and_as_long_as_the_sequence():
    for pooling, length in (("mean", 6), ("class", 7)):
        config = VisionConfig(**ODD, pooling=pooling)
        assert config.grid == (2, 3)
        assert config.encoder.max_length == length
        assert not config.encoder.causal
        assert config.encoder.dropout == 0.0
    assert VisionConfig(dropout=0.25).encoder.dropout == 0.25


# --- training -----------------------------------------------------------------------------------


def digits(seed):
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(data.target)
    return train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)


def test_a_vision_transformer_reads_95_per_cent_of_the_digits():
    train_images, test_images, train_labels, test_labels = digits(seed=0)
    torch.manual_seed(0)
    model = VisionTransformer(VisionConfig())
    assert accuracy(model, test_images, test_labels) < 0.3
    assert model(test_images[:2]).shape == (2, 10)
    losses = train_classifier(model, train_images, train_labels)
    assert accuracy(model, test_images, test_labels) >= 0.95
    assert len(losses) == 25
    assert losses[0] > 1.0 > 0.1 > losses[-1]


def blobs(n=40):
    """Images of two kinds: brighter left or brighter right."""
    images = randn(n, 1, 4, 4, seed=0, dtype=torch.float32)
    labels = torch.arange(n) % 2
    images[labels == 0, :, :, :2] += 3
    images[labels == 1, :, :, 2:] += 3
    return images, labels


def tiny(seed=0):
    torch.manual_seed(seed)
    config = VisionConfig(
        (4, 4), patch_size=2, n_classes=2, d_model=8, n_layers=1, n_heads=2, dropout=0.0
    )
    return VisionTransformer(config)


def test_training_repeats_with_its_seed_and_leaves_its_inputs():
    images, labels = blobs()
    before = images.clone()
    runs = [
        train_classifier(tiny(), images, labels, epochs=3, batch_size=7, seed=s) for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(images, before)
    assert runs[0][-1] < runs[0][0]


def test_the_learning_rate_warms_up_over_a_tenth_and_falls_to_nearly_zero(monkeypatch):
    seen = []

    def spy(step, **schedule):
        seen.append((step, schedule))
        return cosine_schedule(step, **schedule)

    monkeypatch.setattr(vision, "cosine_schedule", spy)
    images, labels = blobs(40)
    train_classifier(tiny(), images, labels, epochs=4, batch_size=16, max_lr=0.25)
    # 40 images are 16 + 16 + 8: three steps an epoch.
    assert [step for step, _ in seen] == list(range(1, 13))
    assert all(
        schedule == {"max_lr": 0.25, "min_lr": 0.0, "warmup_steps": 1, "total_steps": 13}
        for _, schedule in seen
    )
    rates = [cosine_schedule(step, **schedule) for step, schedule in seen]
    assert rates[0] == 0.25
    assert 0 < rates[-1] < 0.01


def test_steps_are_torchs():
    images, labels = blobs(20)
    ours, theirs = tiny(), tiny()
    losses = train_classifier(
        ours, images, labels, epochs=3, batch_size=20, max_lr=0.01, weight_decay=0.3, max_norm=0.2
    )
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    expected = []
    for step in (1, 2, 3):
        lr = cosine_schedule(step, max_lr=0.01, min_lr=0.0, warmup_steps=0, total_steps=4)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(images), labels)
        loss.backward()
        assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.2) > 0.2
        optimizer.step()
        expected.append(loss.item())
    assert_close(losses, expected, rtol=1e-5, atol=0)
    for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # Adam divides by the gradient's size: one that is zero but for rounding, as k_proj's bias
        # has, moves by a step in any direction.
        if not name.endswith("k_proj.bias"):
            assert_close(mine, its, rtol=1e-4, atol=1e-4)


def test_training_is_in_training_mode_and_accuracy_is_not():
    images, labels = blobs()
    modes = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 2)

        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return self.linear(x.flatten(1))

    model = Watched().eval()
    train_classifier(model, images, labels, epochs=1, batch_size=40)
    accuracy(model, images, labels)
    assert modes == [(True, True), (False, False)]
    assert model.training
    model.eval()
    accuracy(model, images, labels)
    assert not model.training


class Oracle(nn.Module):
    """Guesses the class that the first pixel names."""

    def __init__(self, dtype):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        assert x.dtype == self.unused.dtype
        return F.one_hot(x[:, 0, 0, 0].long(), 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accuracy_is_the_share_of_right_guesses_over_uneven_batches(dtype):
    images = torch.arange(10.0).reshape(10, 1, 1, 1)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 0, 0])
    for batch_size in (1, 3, 10, 50):
        assert accuracy(Oracle(dtype), images, labels, batch_size=batch_size) == 0.7


def test_training_runs_in_the_models_dtype():
    images, labels = blobs(16)
    model = tiny().double()
    train_classifier(model, images, labels, epochs=1, batch_size=8)
    assert all(p.dtype == torch.float64 for p in model.parameters())


# --- errors name the value ----------------------------------------------------------------------

IMAGES, LABELS = torch.zeros(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patchify(torch.zeros(4, 4), 2), r"got \(4, 4\)"),
        (lambda: patchify(IMAGES, 3), r"patch_size = 3 divides, got \(3, 1, 4, 4\)"),
        (lambda: patchify(torch.zeros(1, 4, 6), 4), r"got \(1, 4, 6\)"),
        (lambda: patchify(torch.zeros(1, 6, 4), 4), r"got \(1, 6, 4\)"),
        (lambda: patchify(IMAGES, 0), "patch_size = 0"),
        (lambda: PatchEmbedding(0, 1, 4), "patch_size must be at least 1, got 0"),
        (lambda: PatchEmbedding(1, -1, 4), "n_channels must be at least 1, got -1"),
        (lambda: PatchEmbedding(1, 1, 0), "d_model must be at least 1, got 0"),
        (lambda: PatchEmbedding(1, 1, 4, implementation="fast"), "implementation is 'fast'"),
        (lambda: PatchEmbedding(2, 3, 4)(IMAGES), r"3 channels, got \(3, 1, 4, 4\)"),
        (lambda: PatchEmbedding(3, 1, 4)(IMAGES), "patch_size = 3"),
        (lambda: sinusoidal_encoding_2d(0, 1, 4), "got 0 and 1"),
        (lambda: sinusoidal_encoding_2d(1, 0, 4), "got 1 and 0"),
        (lambda: sinusoidal_encoding_2d(1, 1, 6), "divisible by 4.* got 6"),
        (lambda: sinusoidal_encoding_2d(1, 1, 0), "got 0"),
        (lambda: VisionConfig(image_size=(8, 6)), r"patch_size = 4, got \(8, 6\)"),
        (lambda: VisionConfig(image_size=(6, 8)), r"got \(6, 8\)"),
        (lambda: VisionConfig(image_size=(0, 8)), r"got \(0, 8\)"),
        (lambda: VisionConfig(image_size=(8, 8, 8)), r"got \(8, 8, 8\)"),
        (lambda: VisionConfig(patch_size=0), "patch_size must be at least 1, got 0"),
        (lambda: VisionConfig(n_channels=0), "n_channels must be at least 1, got 0"),
        (lambda: VisionConfig(n_classes=0), "n_classes must be at least 1, got 0"),
        (lambda: VisionConfig(pooling="max"), "pooling is 'max'"),
        (lambda: VisionConfig(positions="rope"), "positions is 'rope'"),
        (lambda: VisionConfig(d_model=6, n_heads=3, positions="sinusoidal"), "by 4, got 6"),
        (lambda: VisionConfig(d_model=66), "n_heads must divide d_model = 66"),
        (lambda: tiny()(torch.zeros(1, 1, 4, 6)), r"\(\.\.\., 1, 4, 4\), got \(1, 1, 4, 6\)"),
        (lambda: tiny()(torch.zeros(1, 2, 4, 4)), r"1 channels, got \(1, 2, 4, 4\)"),
        (lambda: train_classifier(tiny(), IMAGES, LABELS[:2]), "got 3 and 2"),
        (lambda: train_classifier(tiny(), IMAGES[:0], LABELS[:0]), "got 0 and 0"),
        (lambda: train_classifier(tiny(), IMAGES, LABELS, epochs=0), "got 0 and 64"),
        (lambda: train_classifier(tiny(), IMAGES, LABELS, batch_size=0), "got 25 and 0"),
        (lambda: accuracy(tiny(), IMAGES, LABELS[:2]), "got 3 and 2"),
        (lambda: accuracy(tiny(), IMAGES[:0], LABELS[:0]), "got 0 and 0"),
        (lambda: accuracy(tiny(), IMAGES, LABELS, batch_size=0), "batch_size .* got 0"),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@POOLINGS
@BOTH
def test_cuda_gives_the_cpus_logits_and_trains(pooling, implementation):
    model = odd_model(pooling=pooling, implementation=implementation)
    images = randn(6, 2, 8, 12, seed=1)
    with torch.no_grad():
        expected = model(images)
        assert_close(model.cuda()(images.cuda()).cpu(), expected)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    losses = train_classifier(model, images, labels, epochs=3, batch_size=4)
    assert losses[-1] < losses[0]
    assert 0 <= accuracy(model, images, labels) <= 1
