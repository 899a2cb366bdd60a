"""Generation against Hugging Face, against the model asked one token at a time, and by enumeration."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from llmr_ref.config import TransformerConfig
from llmr_ref.generation import Beam, beam_search, generate, stream
from llmr_ref.rope import RopeScaling
from llmr_ref.sampling import distribution
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import EncoderDecoder, Transformer
from llmr_ref.weights import llama_weights

V = 13
BASE = TransformerConfig(V, 24, 2, 4, n_kv_heads=2, d_head=10, d_ff=40, max_length=40)
POSITIONS = ["rope", "learned", "sinusoidal", "t5", "alibi", "none"]
RAGGED = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1]]


def make(kind=Transformer, *, dtype=torch.float64, scale=0.4, seed=0, **changes):
    """A model whose weights are far from small: its text does not settle on one token."""
    config = dataclasses.replace(BASE, **changes)
    generator = torch.Generator().manual_seed(seed)
    model = kind(config, dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def draw_tokens(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_hand(model, row, n, *, stop=()):
    """The most probable continuation of one row, asked of the whole model for every token."""
    row = list(row)
    for _ in range(n):
        row.append(model(torch.tensor(row))[-1].argmax().item())
        if row[-1] in stop:
            break
    return row


def hugging_face(model):
    """The same weights in `LlamaForCausalLM`."""
    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            head_dim=config.head_width,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.max_length,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=False,
        )
    ).double()
    theirs.load_state_dict(llama_weights(model))
    return theirs.eval()


def generate_by_hugging_face(model, tokens, **options):
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **(settings | options))


# --- greedy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("cache", [True, False])
def test_greedy_text_is_hugging_faces(kv, cache):
    model = make(n_kv_heads=kv)
    tokens = draw_tokens(3, 5)
    theirs = generate_by_hugging_face(hugging_face(model), tokens, max_new_tokens=30)
    ours = generate(model, tokens, max_new_tokens=30, temperature=0, cache=cache)
    assert torch.equal(ours, theirs)
    assert len(theirs.unique()) > 4  # not one token over and over


@pytest.mark.parametrize("positions", POSITIONS)
@settings(max_examples=12)
@given(data=st.data())
def test_prompts_of_different_lengths_go_on_as_each_would_alone(positions, data):
    model = make(
        positions=positions,
        window=data.draw(st.sampled_from([None, 3])),
        block=data.draw(st.sampled_from(["pre", "parallel"])),
    )
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=7), min_size=1, max_size=4)
    )
    stop = data.draw(st.lists(st.integers(0, V - 1), max_size=2))
    ours = generate(
        model,
        prompts,
        max_new_tokens=6,
        temperature=0,
        stop_tokens=stop,
        cache=data.draw(st.booleans()),
        prefill_chunk=data.draw(st.sampled_from([None, 1, 2, 5])),
    )
    assert ours == [by_hand(model, row, 6, stop=stop) for row in prompts]


def test_a_prompt_may_be_a_row_a_batch_or_a_batch_of_batches():
    model = make()
    tokens = draw_tokens(2, 3, 4)
    out = generate(model, tokens, max_new_tokens=5, temperature=0)
    assert out.shape == (2, 3, 9)
    assert out.dtype == torch.int64
    assert torch.equal(generate(model, tokens[1, 2], max_new_tokens=5, temperature=0), out[1, 2])
    assert torch.equal(generate(model, tokens[1].int(), max_new_tokens=5, temperature=0), out[1])
    assert torch.equal(out[..., :4], tokens)
    lists = generate(model, tokens[1].tolist(), max_new_tokens=5, temperature=0)
    assert lists == out[1].tolist()


def test_the_prompt_is_only_read_and_no_new_token_gives_it_back():
    model = make()
    tokens, lists = draw_tokens(2, 4), [[1, 2], [3]]
    before = tokens.clone()
    generate(model, tokens, max_new_tokens=3, temperature=0)
    generate(model, lists, max_new_tokens=3, temperature=0)
    assert torch.equal(tokens, before)
    assert lists == [[1, 2], [3]]
    same = generate(model, tokens, max_new_tokens=0)
    assert torch.equal(same, tokens)
    assert same.data_ptr() != tokens.data_ptr()
    assert generate(model, lists, max_new_tokens=0) == lists
    assert generate(model, [[3]], max_new_tokens=0) == [[3]]


def test_a_prompt_may_be_cut_out_of_a_larger_tensor():
    model = make()
    wide = draw_tokens(6, 8)
    out = generate(model, wide[::2, ::2], max_new_tokens=5, temperature=0)
    clean = wide[::2, ::2].contiguous()
    assert torch.equal(out, generate(model, clean, max_new_tokens=5, temperature=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_generate(dtype):
    model = make(dtype=dtype)
    out = generate(model, draw_tokens(2, 4), max_new_tokens=5, temperature=0)
    assert out.shape == (2, 9)


def test_dynamic_scaling_generates_without_a_cache_alone():
    model = make(rope_scaling=RopeScaling("dynamic", 4.0, 6))
    expected = by_hand(model, [1, 2, 3], 8)
    options = {"max_new_tokens": 8, "temperature": 0}
    assert generate(model, [[1, 2, 3]], cache=False, **options) == [expected]
    with pytest.raises(ValueError, match="dynamic"):
        generate(model, [[1, 2, 3]], **options)


# --- stopping ----------------------------------------------------------------------------------


def test_rows_stop_by_themselves_and_the_batch_with_the_last():
    model = make()
    tokens = draw_tokens(4, 3)
    free = generate(model, tokens, max_new_tokens=25, temperature=0)[:, 3:].tolist()
    stop = (free[0][2], free[2][7])
    ends = [next((n for n, t in enumerate(row) if t in stop), 24) for row in free]
    assert len(set(ends)) > 1
    options = {"max_new_tokens": 25, "temperature": 0, "stop_tokens": stop}
    out = generate(model, tokens, pad_token=11, **options)[:, 3:]
    assert out.shape[1] == max(ends) + 1
    for row, alone, end in zip(out.tolist(), free, ends, strict=True):
        assert row[: end + 1] == alone[: end + 1]
        assert set(row[end + 1 :]) <= {11}
    lists = generate(model, tokens.tolist(), **options)
    expected = [alone[: end + 1] for alone, end in zip(free, ends, strict=True)]
    assert [row[3:] for row in lists] == expected


def test_the_first_stop_token_pads_unless_told_otherwise():
    model = make()
    tokens = draw_tokens(4, 3)
    first = generate(model, tokens, max_new_tokens=1, temperature=0)[:, -1].tolist()
    other = next(t for t in range(V) if t not in first)
    out = generate(
        model, tokens, max_new_tokens=3, temperature=0, stop_tokens=[other, *set(first[:2])]
    )[:, 3:]
    assert set(out[:2, 1:].flatten().tolist()) == {other}


def test_one_stop_token_needs_no_list():
    model = make()
    free = by_hand(model, [1, 2], 10)
    out = generate(model, [[1, 2]], max_new_tokens=10, temperature=0, stop_tokens=free[4])
    assert out == [free[: free.index(free[4], 2) + 1]]


# --- streaming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 1.3])
def test_the_stream_is_what_generate_appends(temperature):
    model = make()
    options = {"max_new_tokens": 9, "temperature": temperature, "seed": 4}
    for prompt in (draw_tokens(2, 3, 4), draw_tokens(4)):
        tokens = list(stream(model, prompt, **options))
        assert all(token.shape == prompt.shape[:-1] for token in tokens)
        whole = generate(model, prompt, **options)
        assert torch.equal(torch.stack(tokens, -1), whole[..., prompt.shape[-1] :])
    rows = torch.stack(list(stream(model, RAGGED, **options)), -1).tolist()
    expected = [old + new for old, new in zip(RAGGED, rows, strict=True)]
    assert generate(model, RAGGED, **options) == expected


def test_tokens_come_one_by_one_and_leave_gradients_as_they_were():
    model, reads = make(), []
    model.ln_final.register_forward_pre_hook(lambda *_: reads.append(1))
    tokens = stream(model, [[1, 2, 3]], max_new_tokens=5, temperature=0, cache=False)
    assert not reads
    for n in range(1, 6):
        next(tokens)
        assert len(reads) == n
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    with pytest.raises(StopIteration):
        next(tokens)


def test_bad_input_is_refused_before_the_first_token_is_asked_for():
    with pytest.raises(ValueError, match="max_new_tokens"):
        stream(make(), [[1]], max_new_tokens=-1)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_a_model_learns_from_what_it_has_generated(layout):
    model = make(rope_layout=layout)
    text = generate(model, draw_tokens(2, 3), max_new_tokens=6)
    (token,) = stream(model, draw_tokens(2, 3), max_new_tokens=1)
    for tokens in (text, token[:, None].expand(-1, 3)):
        model.zero_grad()
        next_token_loss(model(tokens), tokens).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


# --- chance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [draw_tokens(3, 4), RAGGED], ids=["tensor", "lists"])
def test_one_seed_gives_one_text_with_and_without_cache(prompt):
    model = make()
    options = {"max_new_tokens": 12, "temperature": 1.5, "top_k": 11, "top_p": 0.95, "min_p": 0.01}
    options["repetition_penalty"] = 1.3

    def text(**more):
        out = generate(model, prompt, **options, **more)
        return out.tolist() if isinstance(out, torch.Tensor) else out

    first = text(seed=1)
    assert text(seed=1) == first
    assert text(generator=torch.Generator().manual_seed(1)) == first
    assert text(seed=1, cache=False) == first
    assert text(seed=1, prefill_chunk=2) == first
    assert text(seed=2) != first


def test_without_a_seed_torchs_own_generator_rolls_the_die():
    model, tokens = make(), draw_tokens(2, 3)
    torch.manual_seed(3)
    first = generate(model, tokens, max_new_tokens=12)
    assert not torch.equal(generate(model, tokens, max_new_tokens=12), first)
    torch.manual_seed(3)
    assert torch.equal(generate(model, tokens, max_new_tokens=12), first)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"repetition_penalty": 2.0},
        {"temperature": 0, "repetition_penalty": 3.0},
    ],
)
def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(options):
    model = make(scale=0.3)
    row = [7, 2, 9, 2]
    n = 4000
    # Shorter prompts beside it: their padding, token 0, must not count as having occurred.
    prompts = [row] * n + [[3]] * 2
    drawn = torch.tensor(generate(model, prompts, max_new_tokens=1, seed=0, **options)[:n])[:, -1]
    with torch.no_grad():
        logits = model(torch.tensor(row))[-1]
    p = distribution(logits, previous=torch.tensor(row), **options)
    frequency = torch.bincount(drawn, minlength=V) / n
    assert (frequency[p == 0] == 0).all()
    # Five standard deviations of a binomial share.
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_the_penalty_counts_the_row_alone_and_no_padding():
    model = make()
    options = {"max_new_tokens": 8, "temperature": 0, "repetition_penalty": 1.8}
    together = generate(model, RAGGED, **options)
    assert together == [generate(model, [row], **options)[0] for row in RAGGED]
    assert together != generate(model, RAGGED, max_new_tokens=8, temperature=0)


# --- encoder-decoder ---------------------------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("cache", [True, False])
def test_an_encoder_decoder_continues_its_target(positions, cache):
    model = make(EncoderDecoder, positions=positions)
    source, start = draw_tokens(3, 6), torch.tensor([[1], [4], [1]])
    source_mask = (torch.arange(6) < torch.tensor([6, 3, 5])[:, None])[:, None]
    out = generate(
        model,
        start,
        max_new_tokens=7,
        temperature=0,
        source=source,
        source_mask=source_mask,
        cache=cache,
    )
    expected = start
    with torch.no_grad():
        for _ in range(7):
            logits = model(source, expected, source_mask=source_mask)[:, -1]
            expected = torch.cat((expected, logits.argmax(-1, keepdim=True)), -1)
    assert torch.equal(out, expected)


def test_beams_of_an_encoder_decoder_score_what_the_model_says():
    model = make(EncoderDecoder)
    source = draw_tokens(5)
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    best = beam_search(model, [1, 2], max_new_tokens=2, beams=V, source=source, source_mask=mask)
    tokens = best[0].tokens
    with torch.no_grad():
        log_p = model(source, tokens, source_mask=mask).log_softmax(-1)
        two = all_continuations(lambda row: model(source, row, source_mask=mask), [1, 2], 2)
    assert_close(best[0].score, (log_p[1, tokens[2]] + log_p[2, tokens[3]]).item() / 2)
    assert tokens[2:].tolist() == list(max(two, key=two.get))


# --- beam search -------------------------------------------------------------------------------


@torch.no_grad()
def all_continuations(forward, prompt, n, stop=()):
    """log p of every continuation of n tokens, or of fewer that end in a stop token."""
    T, total = len(prompt), {}
    for new in itertools.product(range(V), repeat=n):
        end = next((i for i, t in enumerate(new) if t in stop), n - 1)
        total[new[: end + 1]] = 0.0
    longest = [new for new in total if len(new) == n]
    rows = torch.tensor([[*prompt, *new] for new in longest])
    log_p = forward(rows[:, :-1]).log_softmax(-1)[:, T - 1 :]
    steps = log_p.gather(-1, rows[:, T:, None])[..., 0]
    for new, row in zip(longest, steps.tolist(), strict=True):
        total[new] = sum(row)
    for new in total:
        if len(new) < n:
            rows = torch.tensor([[*prompt, *new]])
            log_p = forward(rows[:, :-1]).log_softmax(-1)[:, T - 1 :]
            total[new] = log_p.gather(-1, rows[:, T:, None]).sum().item()
    return total


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("stop", [[], [5], [5, 2]])
@pytest.mark.parametrize("cache", [True, False])
def test_with_enough_beams_the_search_is_exhaustive(penalty, stop, cache):
    model = make(scale=0.25)
    prompt = [7, 1, 4]
    total = all_continuations(model, prompt, 3, stop)
    scores = {new: log_p / len(new) ** penalty for new, log_p in total.items()}
    expected = sorted(scores, key=scores.get, reverse=True)
    found = beam_search(
        model,
        prompt,
        max_new_tokens=3,
        beams=V * V,
        length_penalty=penalty,
        stop_tokens=stop,
        cache=cache,
    )
    assert len(found) == V * V
    for beam, new in zip(found[:40], expected[:40], strict=True):
        assert tuple(beam.tokens[3:].tolist()) == new
        assert_close(beam.score, scores[new])


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("stop", [None, 5, [5, 2]])
@pytest.mark.parametrize("beams", [2, 3, 7])
def test_beams_are_hugging_faces(penalty, stop, beams):
    # early_stopping="never" is the rule that never stops too early; one beam is greedy search there.
    model = make(scale=0.3, window=None)
    prompt = draw_tokens(5)
    theirs = generate_by_hugging_face(
        hugging_face(model),
        prompt[None],
        max_new_tokens=9,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping="never",
        eos_token_id=stop,
        output_scores=True,
        return_dict_in_generate=True,
    )
    ours = beam_search(
        model,
        prompt,
        max_new_tokens=9,
        beams=beams,
        length_penalty=penalty,
        stop_tokens=[] if stop is None else stop,
    )
    assert len(ours) == beams
    rows = zip(ours, theirs.sequences, theirs.sequences_scores, strict=True)
    for beam, tokens, score in rows:
        assert beam.tokens.tolist() == tokens[: len(beam.tokens)].tolist()
        # Theirs are rounded to float32 on the way.
        assert_close(beam.score, score.item(), rtol=1e-5, atol=1e-5)


def test_one_beam_is_greedy_and_its_score_a_mean():
    model = make()
    (beam,) = beam_search(model, [1, 2, 3], max_new_tokens=6, beams=1)
    assert beam.tokens.tolist() == by_hand(model, [1, 2, 3], 6)
    loss = next_token_loss(model(beam.tokens[:-1])[2:], beam.tokens[3:])
    assert_close(beam.score, -loss.item())


def test_more_beams_than_continuations_give_them_all_once():
    model = make()
    beams = beam_search(model, torch.tensor([[3]]), max_new_tokens=1, beams=20)
    assert sorted(beam.tokens[-1].item() for beam in beams) == list(range(V))
    assert_close(math.fsum(math.exp(beam.score) for beam in beams), 1.0)


def test_a_search_in_which_every_token_stops_ends_at_once():
    beams = beam_search(make(), [3], max_new_tokens=5, beams=4, stop_tokens=range(V))
    assert [len(beam.tokens) for beam in beams] == [2] * 4


def test_a_search_ends_when_nothing_can_overtake():
    model, reads = make(), []
    with torch.no_grad():
        log_p, best = model(torch.tensor([1]))[-1].log_softmax(-1).topk(2)
    model.lm_head.register_forward_pre_hook(lambda *_: reads.append(1))
    search = {"max_new_tokens": 12, "beams": 2, "stop_tokens": best.tolist(), "cache": False}
    # A probability only falls: whatever goes on stays below the two that have ended.
    found = beam_search(model, [1], length_penalty=0.0, **search)
    assert [beam.tokens.tolist() for beam in found] == [[1, token] for token in best.tolist()]
    assert_close([beam.score for beam in found], log_p.tolist())
    assert len(reads) == 1
    beam_search(model, [1], length_penalty=1.0, **search)  # a mean can rise again
    assert len(reads) > 2


def test_a_beam_is_its_tokens_and_its_score():
    beam = Beam(torch.tensor([1, 2]), -0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        beam.score = 0.0


# --- errors name the value ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (torch.tensor([0.5]), {}, TypeError, r"got torch\.float32"),
        (torch.tensor([True]), {}, TypeError, r"got torch\.bool"),
        (torch.tensor(3), {}, ValueError, r"at least one token, got shape \(\)"),
        (torch.zeros(2, 0, dtype=torch.long), {}, ValueError, r"got shape \(2, 0\)"),
        ([1, 2], {}, TypeError, r"\[\[1, 2, 3\]\]"),
        ([], {}, ValueError, r"got lengths \[\]"),
        ([[1, 2], []], {}, ValueError, r"got lengths \[2, 0\]"),
        ([[1, V]], {}, IndexError, r"prompt must lie in 0\.\.12.* got 1\.\.13"),
        ([[-1]], {}, IndexError, r"got -1\.\.-1"),
        ([[1]], {"max_new_tokens": -1}, ValueError, "at least 0, got -1"),
        ([[1]], {"max_new_tokens": 1.5}, ValueError, r"max_new_tokens .* got 1\.5"),
        ([[1]], {"max_new_tokens": True}, ValueError, "got True"),
        ([[1]], {"prefill_chunk": 0}, ValueError, "prefill_chunk .* at least 1, got 0"),
        ([[1]], {"stop_tokens": V}, IndexError, r"stop_tokens must .* got 13\.\.13"),
        ([[1]], {"pad_token": -1}, IndexError, "pad_token"),
        ([[1]], {"seed": 1, "generator": torch.Generator()}, ValueError, "got both, seed = 1"),
        ([[1]], {"source": torch.tensor([1])}, ValueError, "source is for an EncoderDecoder"),
        ([[1]], {"source_mask": torch.ones(1, 1).bool()}, ValueError, "source is for"),
        ([[1]], {"top_q": 1}, TypeError, "top_q"),
    ],
)
def test_an_error_names_the_offending_value(prompt, options, error, message):
    with pytest.raises(error, match=message):
        generate(make(), prompt, **({"max_new_tokens": 2} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": V + 1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_errors_of_sampling_come_through(options, message):
    with pytest.raises(ValueError, match=message):
        generate(make(), [[1]], max_new_tokens=2, **options)


def test_learned_positions_end_where_they_end():
    model = make(positions="learned", max_length=8)
    assert len(generate(model, [[1, 2, 3]], max_new_tokens=6)[0]) == 9  # nobody reads the last one
    with pytest.raises(ValueError, match=r"need 9 positions.* max_length = 8"):
        generate(model, [[1, 2, 3]], max_new_tokens=7)


def test_dropout_must_be_switched_off():
    model = make(dropout=0.25)
    with pytest.raises(ValueError, match=r"drops 0\.25.*model\.eval\(\)"):
        generate(model, [[1]], max_new_tokens=2)
    generate(model.eval(), [[1]], max_new_tokens=2)


@pytest.mark.parametrize("cache", [True, False])
def test_an_encoder_does_not_generate(cache):
    with pytest.raises(ValueError, match="causal=False"):
        generate(make(causal=False), [[1]], max_new_tokens=2, cache=cache)


def test_an_encoder_decoder_names_what_it_misses():
    model = make(EncoderDecoder)
    with pytest.raises(ValueError, match="needs a source"):
        generate(model, [[1]], max_new_tokens=2)
    with pytest.raises(ValueError, match="got 2 for 1 prompts"):
        generate(model, [[1]], max_new_tokens=2, source=draw_tokens(2, 3))
    with pytest.raises(ValueError, match=r"begin together, got lengths \[1, 2\]"):
        generate(model, [[1], [1, 2]], max_new_tokens=2, source=draw_tokens(2, 3))


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (draw_tokens(2, 3), {}, ValueError, "one prompt, got 2"),
        ([1], {"beams": 0}, ValueError, "beams .* got 0"),
        ([1], {"max_new_tokens": 0}, ValueError, "at least 1, got 0"),
        ([1], {"stop_tokens": -2}, IndexError, "stop_tokens"),
        ([], {}, ValueError, r"got lengths \[0\]"),
    ],
)
def test_a_search_that_cannot_be_is_refused(prompt, options, error, message):
    with pytest.raises(error, match=message):
        beam_search(make(), prompt, **({"max_new_tokens": 2, "beams": 2} | options))


# --- the same on CUDA --------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("positions", POSITIONS)
def test_cuda_generates_what_the_cpu_generates(positions):
    model = make(positions=positions)
    options = {"max_new_tokens": 12, "temperature": 0, "stop_tokens": 5}
    on_cpu = (
        generate(model, RAGGED, **options),
        beam_search(model, [1, 2], beams=3, max_new_tokens=6),
    )
    model.cuda()
    assert generate(model, RAGGED, **options) == on_cpu[0]
    tokens = generate(model, torch.tensor(RAGGED[0]), **options)  # a prompt from the CPU
    assert tokens.is_cuda
    assert tokens.tolist()[: len(on_cpu[0][0])] == on_cpu[0][0]
    beams = beam_search(model, [1, 2], beams=3, max_new_tokens=6)
    assert [b.tokens.tolist() for b in beams] == [b.tokens.tolist() for b in on_cpu[1]]
    sampled = [generate(model, RAGGED, max_new_tokens=9, seed=2) for _ in range(2)]
    assert sampled[0] == sampled[1]
