"""The Python side of the widgets: arguments, traits, the students' functions, the embedded page."""

import json
import math
import re
from typing import Any

import pytest
import torch
import traitlets

from llmr_ref import masks, rope, sampling
from llmr_ref.widgets import MaskEditor, RopeAngles, SamplingKnobs
from llmr_ref.widgets.embed import code_lines, embed_html, module_source
from llmr_ref.widgets.leak import best_trust, leak_losses, look_ahead_scores, look_ahead_weights
from llmr_ref.widgets.mask_editor import FAMILIES

WIDGETS = [MaskEditor, RopeAngles, SamplingKnobs]


def embedded_json(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    state: dict[str, Any] = json.loads(found[1])
    return state


# --- the embedded page -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", WIDGETS)
def test_mimebundle_offers_the_live_view_and_the_page(make: Any) -> None:
    widget = make()
    data, metadata = widget._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    assert data["text/html"] == widget.html()
    assert isinstance(metadata, dict)


@pytest.mark.parametrize("make", WIDGETS)
def test_equal_states_give_equal_pages(make: Any) -> None:
    assert make().html() == make().html()
    assert make().model_id not in make().html()


@pytest.mark.parametrize("make", WIDGETS)
def test_the_page_holds_state_module_picture_and_nothing_from_elsewhere(make: Any) -> None:
    widget = make()
    html = widget.html()
    assert embedded_json(html) == json.loads(json.dumps(widget.embedded_state()))
    assert module_source(make.module_name()) in html
    assert html.count("<script") == html.count("</script") == 3
    assert widget.description().replace("<", "&lt;").replace(">", "&gt;") in html
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


def test_only_the_widgets_own_state_is_embedded() -> None:
    assert set(MaskEditor().embedded_state()) == {
        "tokens", "mask", "family", "edited_from", "window", "prefix_length", "n_real",
        "padding_side", "documents", "causal", "stage", "function_mask", "function_error",
        "reference_family", "code",
    }  # fmt: skip
    assert set(RopeAngles().embedded_state()) == {
        "d", "base", "position", "key_position", "shift", "vectors", "span", "student", "code",
    }  # fmt: skip


def test_tokens_cannot_close_the_script_element() -> None:
    words = ["</script>", "<!--", "<b>&amp;", "\u2028"]
    html = MaskEditor(tokens=words).html()
    assert html.count("</script") == 3
    assert "<!--" not in html
    assert "<b>" not in html
    assert embedded_json(html)["tokens"] == words


def test_a_module_that_would_end_its_own_element_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain '</script'"):
        embed_html(name="W", source="const x = '</script>'", state={}, picture="", caption="")


def test_the_module_is_one_file_with_one_kit() -> None:
    for make in WIDGETS:
        source = module_source(make.module_name())
        assert not re.search(r"^\s*import\b", source, re.MULTILINE)
        assert source.count("export default") == 1
        assert source.count("function makeStage") == 1


# --- the mask editor ---------------------------------------------------------------------------------


def test_every_family_is_the_reference_mask() -> None:
    n = 5
    documents = torch.tensor([0, 0, 4, 4, 4])
    expected = {
        "none": torch.ones(n, n, dtype=torch.bool),
        "causal": masks.causal_mask(n),
        "sliding window": masks.sliding_window_mask(n, 3),
        "prefix": masks.prefix_mask(n, 4),
        "padding": masks.padding_mask(torch.tensor(2), n) & masks.causal_mask(n),
        "packed documents": masks.document_mask(documents) & masks.causal_mask(n),
    }
    assert tuple(expected) == FAMILIES
    for family, mask in expected.items():
        editor = MaskEditor(
            mask=family, window=3, prefix_length=4, n_real=2, documents=documents.tolist()
        )
        assert editor.mask == mask.tolist(), family
        assert editor.family == family


def test_parameters_move_the_mask_and_cells_make_it_custom() -> None:
    editor = MaskEditor(mask="sliding window", window=2)
    editor.window = 1
    assert editor.mask == torch.eye(5, dtype=torch.bool).tolist()
    editor.mask = masks.causal_mask(5)  # a tensor is welcome
    assert (editor.family, editor.edited_from) == ("custom", "sliding window")
    editor.window = 3  # a custom mask does not move
    assert editor.mask == masks.causal_mask(5).tolist()
    editor.family = "none"
    assert editor.mask == [[True] * 5] * 5


def test_new_tokens_refit_everything() -> None:
    editor = MaskEditor(mask="padding", n_real=5, prefix_length=5)
    editor.tokens = ["a", "b", "c"]
    assert (editor.n_real, editor.prefix_length, len(editor.documents)) == (3, 3, 3)
    assert editor.mask == masks.causal_mask(3).tolist()
    editor.mask = [[True] * 3] * 3
    editor.tokens = ["a", "b"]
    assert editor.mask == masks.causal_mask(2).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "casual"}, "mask is 'casual'; choose one of none, causal"),
        ({"mask": [[True]]}, "mask must be 5 x 5 booleans"),
        ({"mask": [[2] * 5] * 5}, "got the cell 2"),
        ({"mask": torch.zeros(5, 5)}, "torch.float32"),
        ({"tokens": ["one"]}, "tokens must number 2 to 16, got 1"),
        ({"tokens": ["x"] * 17}, "got 17"),
        ({"window": 0}, "window must lie in 1..16, got 0"),
        ({"prefix_length": 6}, "prefix_length must lie in 0..5, got 6"),
        ({"n_real": 0}, "n_real must lie in 1..5, got 0"),
        ({"documents": [0, 1]}, "one document number per token: 5, got 2"),
        ({"padding_side": "top"}, "padding_side"),
        ({"mask_function": 3}, "mask_function must be callable, got int"),
        (
            {"mask_function": len, "mask": [[True] * 5] * 5},
            "mask names the reference family",
        ),
    ],
)
def test_mask_editor_names_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        MaskEditor(**arguments)


def test_a_bad_trait_value_is_refused_and_forgotten() -> None:
    editor = MaskEditor()
    with pytest.raises(ValueError, match="window must lie in"):
        editor.window = 0
    assert editor.window == 2
    with pytest.raises(traitlets.TraitError), editor.hold_trait_notifications():
        editor.n_real = 9
    assert editor.n_real == 3


def test_a_students_mask_function_is_compared_with_the_family() -> None:
    right = MaskEditor(mask_function=masks.causal_mask)
    assert (right.family, right.reference_family) == ("function", "causal")
    assert right.mask == masks.causal_mask(5).tolist()
    lengths = []

    def two_lengths(n_queries: int, n_keys: int) -> list[list[int]]:
        lengths.append((n_queries, n_keys))
        return [[1] * n_keys] * n_queries

    wrong = MaskEditor(mask="prefix", prefix_length=3, mask_function=two_lengths)
    assert wrong.reference_family == "prefix"
    assert wrong.mask == [[True] * 5] * 5
    wrong.tokens = ["a", "b", "c"]
    assert lengths == [(5, 5), (3, 3)]
    assert wrong.mask == [[True] * 3] * 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda n: None, "TypeError: it must return 5 x 5 booleans for T = 5, got NoneType"),
        (lambda n: torch.ones(n, n), "torch.float32; True = may attend"),
        (lambda n: torch.ones(n, n - 1, dtype=torch.bool), "got 5 rows of [4] cells"),
        (lambda n: torch.ones(n, dtype=torch.bool), "TypeError: it must return 5 x 5"),
    ],
)
def test_a_students_mask_error_is_shown_and_contained(answer: Any, message: str) -> None:
    editor = MaskEditor(mask_function=answer)
    assert message in editor.function_error
    assert editor.function_mask == []
    assert (editor.family, editor.mask) == ("causal", masks.causal_mask(5).tolist())
    assert editor.html()


def test_what_the_student_prints_does_not_reach_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    MaskEditor(mask_function=lambda n: print("hello") or masks.causal_mask(n))
    RopeAngles(rotary=lambda x, p, b: print("hello") or rope.apply_rope(x, p, b))
    assert capsys.readouterr().out == ""


def test_padding_a_prefix_and_document_ends_are_not_scored() -> None:
    assert MaskEditor().scored_positions() == [True, True, True, True, False]
    padded = MaskEditor(mask="padding", n_real=3)
    assert padded.shown_tokens() == ["<s>", "I", "saw", "<pad>", "<pad>"]
    assert padded.scored_positions() == [True, True, False, False, False]
    left = MaskEditor(mask="padding", n_real=3, padding_side="left")
    assert left.shown_tokens() == ["<pad>", "<pad>", "saw", "the", "dog"]
    assert left.scored_positions() == [False, False, True, True, False]
    prefix = MaskEditor(mask="prefix", prefix_length=3)
    assert prefix.scored_positions() == [False, False, True, True, False]
    packed = MaskEditor(mask="packed documents", documents=[0, 0, 0, 1, 1])
    assert packed.scored_positions() == [True, True, False, True, False]


# --- the toy model -----------------------------------------------------------------------------------

SENTENCE = ["<s>", "I", "saw", "the", "dog"]


def test_the_head_looks_one_ahead() -> None:
    for n in (3, 5, 16):
        scores = look_ahead_scores(n)
        assert scores[:-1].argmax(-1).tolist() == list(range(1, n))
        neighbours = scores.diagonal(1) - scores.diagonal()[:-1]
        torch.testing.assert_close(neighbours, torch.ones(n - 1, dtype=torch.float64))


def test_without_a_leak_the_loss_is_a_blind_guess_and_nothing_is_gained() -> None:
    losses = leak_losses(SENTENCE, masks.causal_mask(5))
    assert losses.trust == [0] * 5
    assert losses.training == losses.writing == losses.honest == pytest.approx(math.log(5))


def test_a_leak_is_gained_in_training_and_lost_in_writing() -> None:
    losses = leak_losses(SENTENCE, torch.ones(5, 5, dtype=torch.bool))
    assert losses.training < 0.3 < losses.blind < 4 < losses.writing


def test_one_open_cell_leaks_at_its_own_position_only() -> None:
    one = masks.causal_mask(5)
    one[2, 3] = True
    losses = leak_losses(SENTENCE, one)
    assert losses.trust == [0, 0, 6, 0, 0]
    leaked = leak_losses(SENTENCE, one, torch.arange(5) == 2)
    guess = math.log(5)
    assert losses.training == pytest.approx((3 * guess + leaked.training) / 4)
    assert losses.writing == pytest.approx((3 * guess + leaked.writing) / 4)
    assert leaked.training < 0.3 < guess < leaked.writing


def test_an_empty_row_weighs_nothing_and_guesses_blindly() -> None:
    mask = masks.causal_mask(5).tril(-1)
    assert look_ahead_weights(mask)[0].tolist() == [0.0] * 5
    assert leak_losses(SENTENCE, torch.zeros(5, 5, dtype=torch.bool)).training == pytest.approx(
        math.log(5)
    )


def test_the_trust_is_where_the_slope_vanishes() -> None:
    """Torch's own gradient of the loss is zero at a trust inside the range."""
    tokens = ["c", "b", "a", "a", "b"]
    mask, scored = torch.ones(5, 5, dtype=torch.bool), torch.arange(5) == 2
    mask[2, 3] = False  # the answer "a" is left at position 2, and "b" weighs a little more
    trust = best_trust(tokens, mask, scored).requires_grad_()
    assert 0 < trust[2] < 6
    assert trust.count_nonzero() == 1
    words = sorted(set(tokens))
    values = torch.tensor([[float(w == t) for w in words] for t in tokens], dtype=torch.float64)
    logits = trust[:, None] * (look_ahead_weights(mask) @ values)
    loss = torch.nn.functional.cross_entropy(logits[2:3], torch.tensor([words.index("a")]))
    loss.backward()
    assert trust.grad is not None
    assert trust.grad.abs().max() < 1e-12
    assert leak_losses(tokens, mask, scored).training == pytest.approx(loss.item(), abs=1e-12)


def test_leak_losses_name_bad_shapes() -> None:
    with pytest.raises(ValueError, match="mask must be 5 x 5 for 5 tokens"):
        leak_losses(SENTENCE, masks.causal_mask(4))
    with pytest.raises(ValueError, match="the last has no next word"):
        leak_losses(SENTENCE, masks.causal_mask(5), torch.ones(5, dtype=torch.bool))


# --- the RoPE visualizer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": 7}, "d must be even and lie in 2..64, got 7"),
        ({"d": 66}, "got 66"),
        ({"base": 0.5}, "base must be a finite number of at least 1, got 0.5"),
        ({"base": math.inf}, "base must be a finite"),
        ({"position": 2e6}, "position must lie within"),
        ({"position": math.nan}, "position must lie within"),
        ({"shift": -2e6}, "shift must lie within"),
        ({"span": 0}, "span, the largest distance drawn"),
        ({"vectors": "odd"}, "vectors"),
        ({"rotary": "rope"}, "rotary must be callable, got str"),
    ],
)
def test_rope_angles_names_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        RopeAngles(**arguments)


def test_without_a_students_function_nothing_is_asked() -> None:
    assert RopeAngles().student == {}


def test_the_students_function_is_asked_for_every_state() -> None:
    calls = []

    def mine(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
        calls.append((tuple(x.shape), positions.tolist(), positions.dtype, base))
        return rope.apply_rope(x, positions, base)

    widget = RopeAngles(d=6, position=9, key_position=2, rotary=mine)
    widget.shift = 100
    widget.position = 2.5
    widget.base = 50.0
    assert calls == [
        ((4, 6), [9, 2, 9, 2], torch.int64, 10_000.0),
        ((4, 6), [9, 2, 109, 102], torch.int64, 10_000.0),
        ((4, 6), [2.5, 2, 102.5, 102], torch.float64, 10_000.0),
        ((4, 6), [2.5, 2, 102.5, 102], torch.float64, 50.0),
    ]
    student = widget.student
    assert student["error"] == ""
    assert student["state"]["position"] == 2.5
    assert student["differs"] == [False] * 3
    assert (student["score"], student["shifted_score"]) == pytest.approx(widget.scores(), abs=1e-4)


def half_layout(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rope.apply_rope(x, positions, base, layout="half")


def float32_angles(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """Right, written another way: complex numbers, angles in float32."""
    d = x.shape[-1]
    theta = base ** (-torch.arange(0, d, 2).float() / d)
    angle = positions.float()[:, None] * theta
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.view_as_real(turned).flatten(-2)


@pytest.mark.parametrize(
    ("function", "differs"),
    [
        (float32_angles, [False, False, False, False]),
        (lambda x, p, b: rope.apply_rope(x, p, b / 2), [False, True, True, True]),
        (lambda x, p, b: rope.apply_rope(x, -p, b), [True, True, True, True]),
        (lambda x, p, b: rope.apply_rope(x, torch.arange(len(p)), b), [True, True, True, True]),
        (half_layout, [True, True, True, True]),
    ],
)
def test_pairs_that_differ_are_named(function: Any, differs: list[bool]) -> None:
    widget = RopeAngles(position=300, key_position=40, vectors="different", rotary=function)
    assert widget.student["differs"] == differs


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, p, b: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x, p, b: x[:1], "must return the shape of x, (4, 8), got (1, 8)"),
        (lambda x, p, b: x * math.nan, "not finite"),
        (lambda x, p, b: None, "Error"),
        (lambda x: x, "TypeError"),
    ],
)
def test_a_students_error_is_shown_and_contained(function: Any, message: str) -> None:
    widget = RopeAngles(rotary=function)
    assert message in widget.student["error"]
    widget.position = 20  # and the widget lives on
    assert widget.student["state"]["position"] == 20
    assert widget.html()


def test_the_student_cannot_disturb_the_widget_by_changing_its_inputs() -> None:
    def in_place(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
        out = rope.apply_rope(x, positions, base)
        x.zero_()
        positions.zero_()
        return out

    assert RopeAngles(rotary=in_place).student["differs"] == [False] * 4


def test_shifting_both_positions_leaves_the_score_alone() -> None:
    widget = RopeAngles(d=16, vectors="different", shift=12345)
    before, after = widget.scores()
    assert before == pytest.approx(after, abs=1e-9)
    widget.key_position = 5
    assert abs(widget.scores()[0] - before) > 1e-3


# --- the sampling knobs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "coin"}, "source"),
        ({"source": "own"}, "needs tokens and logits"),
        ({"tokens": ["a", "b"]}, "give both"),
        ({"tokens": ["a", "b"], "logits": [1.0]}, "got 2 and 1"),
        ({"tokens": ["a", "b"], "logits": [1.0, math.inf]}, "logits must be finite"),
        ({"temperature": -0.1}, "temperature must lie in 0..10, got -0.1"),
        ({"temperature": math.nan}, "temperature must lie in 0..10, got nan"),
        ({"top_p": 0.0}, "top_p must lie in 0.01..1, got 0.0"),
        ({"top_k": 50_258}, "top_k must lie in 0..50257"),
        ({"repetition_penalty": 0.5}, "repetition_penalty must lie in 1..2"),
        ({"sampler": 3}, "sampler must be callable, got int"),
    ],
)
def test_sampling_knobs_name_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, traitlets.TraitError), match=re.escape(message)):
        SamplingKnobs(**arguments)


def test_the_slides_cases_are_what_the_reference_gives() -> None:
    p = torch.tensor([0.35, 0.22, 0.15, 0.10, 0.07, 0.05, 0.04, 0.02]).double()

    def expect(got: torch.Tensor, weights: torch.Tensor) -> None:
        torch.testing.assert_close(got, weights / weights.sum(), atol=4e-3, rtol=0)  # two decimals

    expect(SamplingKnobs().probabilities(), p)
    expect(SamplingKnobs(temperature=0.5).probabilities(), p**2)
    expect(SamplingKnobs(temperature=2.0).probabilities(), p**0.5)
    expect(SamplingKnobs(top_k=3).probabilities(), p * (p >= 0.15))
    expect(SamplingKnobs(top_p=0.8).probabilities(), p * (p >= 0.10))
    assert SamplingKnobs(temperature=0.0).probabilities().tolist() == [1.0] + [0.0] * 7
    die = SamplingKnobs("die", top_k=40, temperature=0.7).probabilities()
    assert (len(die), int((die > 0).sum())) == (50_257, 40)


def test_the_students_sampler_is_asked_for_every_state() -> None:
    asked = []

    def mine(logits: torch.Tensor, **settings: Any) -> torch.Tensor:
        asked.append((len(logits), settings))
        return sampling.distribution(logits, **settings)

    widget = SamplingKnobs(sampler=mine)
    widget.top_p = 0.8
    widget.source = "die"
    nothing: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}
    cut = {**nothing, "top_p": 0.8}
    assert asked == [(8, nothing), (8, cut), (50_257, cut)]
    assert widget.student["error"] == ""
    assert widget.student["difference"] < 1e-6
    assert widget.student["sum"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, **s: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda logits, **s: logits[:3], "must return the shape of logits, (8,), got (3,)"),
        (lambda logits, **s: logits * math.nan, "not finite"),
        (lambda logits, **s: None, "Error"),
        (lambda logits: logits, "TypeError"),
    ],
)
def test_a_samplers_error_is_shown_and_contained(function: Any, message: str) -> None:
    widget = SamplingKnobs(sampler=function)
    assert message in widget.student["error"]
    widget.temperature = 0.5  # and the widget lives on
    assert widget.student["state"]["temperature"] == 0.5
    assert widget.html()


def test_a_wrong_order_of_operations_shows() -> None:
    def cut_first(logits: torch.Tensor, temperature: float, **settings: Any) -> torch.Tensor:
        p = sampling.distribution(logits, **settings)
        return sampling.distribution(p.log(), temperature=temperature)

    assert SamplingKnobs(sampler=cut_first, top_p=0.8).student["difference"] < 1e-6
    assert SamplingKnobs(sampler=cut_first, top_p=0.8, temperature=0.5).student["difference"] > 0.02


# --- lines of the reference --------------------------------------------------------------------------


def test_code_lines_are_the_references_own_and_their_links_never_stale() -> None:
    lines = code_lines(sampling.divide_by_temperature, temperature="logits / temperature")
    assert lines[-1] == ["    return logits / temperature", "temperature"]
    assert not any('"""' in text for text, _ in lines)
    with pytest.raises(ValueError, match="the code of k, is not in the functions shown"):
        code_lines(sampling.greedy, k="no such code")
    with pytest.raises(ValueError, match="is not in greedy"):
        code_lines(sampling.greedy, begin="no such code")
