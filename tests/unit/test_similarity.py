"""Winnowing: what is shared is found, whatever it is called and however it is laid out."""

import ast
import io
import random
import tokenize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmr_ref.grading.exercises import exercise_names, get_exercise
from llmr_ref.grading.similarity import (
    COMMON,
    GRAM,
    GUARANTEE,
    REFERENCE,
    SHARED_TOKENS,
    WINDOW,
    Token,
    grams,
    similar_pairs,
    tokens,
    winnow,
)

SOURCES = [
    answer.source(name)
    for name in ("softmax", "causal_mask", "rope_angles")
    for answer in get_exercise(name).bank()
]


def stream(texts: list[str]) -> list[Token]:
    return [Token(text, 1) for text in texts]


def fingerprints(texts: list[str]) -> set[int]:
    hashes = grams(stream(texts))
    return {hashes[place] for place in winnow(hashes)}


words = st.lists(st.sampled_from("abcdefgh"), max_size=60)


@given(words, words, words, words, st.lists(st.sampled_from("abcdefgh"), min_size=GUARANTEE))
def test_a_shared_run_of_the_guaranteed_length_is_always_found(a, b, c, d, shared):
    assert fingerprints([*a, *shared, *b]) & fingerprints([*c, *shared, *d])


@given(words, words, st.lists(st.sampled_from("xyz"), min_size=1, max_size=GRAM - 1))
def test_a_shared_run_below_the_noise_threshold_is_never_found(a, b, shared):
    own, other = a, [text.upper() for text in b]
    assert not fingerprints([*own, *shared, *own]) & fingerprints([*other, *shared, *other])


@given(st.lists(st.integers(0, 5), max_size=50), st.integers(1, 12))
def test_exactly_the_rightmost_smallest_hash_of_every_window_is_chosen(hashes, window):
    starts = range(max(len(hashes) - window, 0) + 1) if hashes else ()
    wanted = set()
    for start in starts:
        inside = range(start, min(start + window, len(hashes)))
        wanted.add(max(i for i in inside if hashes[i] == min(hashes[j] for j in inside)))
    assert winnow(hashes, window) == sorted(wanted)


def test_fingerprints_are_the_same_in_every_process():
    assert GRAM == 12 and WINDOW == 9
    # From outside: printf "a\\0b\\0c ... \\0l" | b2sum -l 64
    assert grams(stream(list("abcdefghijkl"))) == [0x106CE2C73302A1E5]


def renamed(source: str) -> str:
    """Every variable, argument and function of the code under another name; the rest as it was."""
    tree = ast.parse(source)
    bound = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} - {"self"}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    found = list(tokenize.generate_tokens(io.StringIO(source).readline))
    changed = []
    for before, t in zip([None, *found], found, strict=False):
        after_dot = before is not None and before.string == "."
        own = t.type == tokenize.NAME and t.string in bound and not after_dot
        changed.append((t.type, f"renamed_{t.string}" if own else t.string))
    return tokenize.untokenize(changed)


def laid_out_otherwise(source: str) -> str:
    """Comments, blank lines, wide spaces and line breaks wherever Python allows them."""
    lines, depth = [], 0
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.OP:
            depth += (t.string in "([{") - (t.string in ")]}")
            if depth and t.string == ",":
                lines.append(",  # here\n\n      ")
                continue
        if t.type in (tokenize.COMMENT, tokenize.NL):
            continue
        if t.type == tokenize.INDENT or t.type == tokenize.DEDENT or t.type == tokenize.ENDMARKER:
            continue
        if t.type == tokenize.NEWLINE:
            lines.append("   # a comment, and a gap\n\n")
        elif not lines or lines[-1].endswith("gap\n\n"):
            lines.append(" " * (2 * t.start[1]) + t.string)
        else:
            lines.append("   " + t.string)
    return "".join(lines)


def texts(source: str) -> list[str]:
    return [t.text for t in tokens(source)]


@pytest.mark.parametrize("source", SOURCES)
def test_renaming_and_reformatting_change_nothing(source):
    assert len(texts(source)) > 10
    other = renamed(source)
    assert other != source
    assert texts(other) == texts(source)
    ast.parse(laid_out_otherwise(source))
    assert texts(laid_out_otherwise(source)) == texts(source)
    assert texts(laid_out_otherwise(other)) == texts(source)


def test_docstrings_and_trailing_commas_are_layout_and_library_names_are_not():
    plain = "def f(x):\n    return x.exp().sum(-1)\n"
    told = (
        'def g(\n    y,\n):\n    """What it does."""\n    return y.exp().sum(\n        -1,\n    )\n'
    )
    assert texts(plain) == texts(told)
    assert texts(plain) != texts(plain.replace("exp", "log"))
    assert texts("self.q = 1") == texts("self.queries = 1") != texts("x.q = 1")


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_no_text_is_too_strange_to_be_read(text):
    for token in tokens(text):
        assert 1 <= token.line <= text.count("\n") + text.count("\r") + 2


LONG = """def f(x, y=None):
    first = x.exp()
    second = first.sum(-1, keepdim=True)
    third = first / second
    if y is None:
        y = third.mean(0)
    for step in range(10):
        y = y * 0.9 + third.std(0) * 0.1
        third = third - y.abs().clamp(min=1e-3)
    return third.where(third > 0, y).transpose(0, 1)
"""
OTHER = """def f(x, y=None):
    out = []
    while len(out) < 12:
        row = [a + b for a, b in zip(x, out or x)]
        out.extend(sorted(row, key=lambda v: -v))
    try:
        return torch.stack(out).view(3, 4).cumsum(1)
    except RuntimeError as error:
        raise ValueError(f"bad {x}") from error
    finally:
        del out, row, x, y
"""


def class_of(codes: dict[str, str]) -> dict[str, dict[str, str]]:
    return {who: {"f": code} for who, code in codes.items()}


def test_a_renamed_copy_is_found_and_its_lines_are_marked():
    copy = laid_out_otherwise(renamed(LONG))
    (pair,) = similar_pairs(class_of({"a": LONG, "b": OTHER, "c": copy}), {}, {})
    assert (pair.left, pair.right, pair.part) == ("a", "c", 1.0)
    assert pair.tokens >= SHARED_TOKENS
    (shared,) = pair.exercises
    assert "\n".join(line.text for line in shared.left.lines) == LONG.rstrip("\n")
    assert all(line.shared for line in shared.left.lines[1:-1])


def test_unlike_answers_are_no_pair():
    assert similar_pairs(class_of({"a": LONG, "b": OTHER}), {"f": ""}, {}) == []


def test_a_copy_of_a_part_is_found_by_the_one_who_wrote_nothing_else():
    (pair,) = similar_pairs(class_of({"a": f"{OTHER}\n{LONG}\n{OTHER}", "b": LONG}), {}, {})
    assert pair.part == 1.0 and pair.tokens < len(tokens(OTHER + LONG))


def test_what_the_template_gives_does_not_count():
    both = class_of({"a": LONG, "b": LONG})
    assert similar_pairs(both, {}, {}) and not similar_pairs(both, {}, {"f": LONG})


def test_likeness_to_the_reference_is_found_with_the_student_on_the_left():
    (pair,) = similar_pairs(class_of({"z": renamed(LONG), "a": OTHER}), {"f": LONG}, {})
    assert (pair.left, pair.right) == ("z", REFERENCE)


def test_what_too_many_share_is_how_one_writes_it():
    crowd = class_of({f"s{k}": LONG for k in range(COMMON[0] + 1)})
    assert similar_pairs(crowd, {}, {}) == []
    del crowd["s0"]
    assert len(similar_pairs(crowd, {}, {})) == COMMON[0] * (COMMON[0] - 1) / 2


def test_the_order_of_students_and_exercises_does_not_matter():
    chance = random.Random(5)
    banks = {e: [a.source(e) for a in get_exercise(e).bank()] for e in exercise_names()[:4]}
    answers = {f"s{k}": {e: chance.choice(bank) for e, bank in banks.items()} for k in range(12)}
    shuffled = {
        who: dict(chance.sample(list(codes.items()), len(codes)))
        for who, codes in chance.sample(list(answers.items()), len(answers))
    }
    first, second = (similar_pairs(x, {}, {}) for x in (answers, shuffled))
    assert first
    assert [(p.left, p.right, p.tokens, p.part) for p in first] == [
        (p.left, p.right, p.tokens, p.part) for p in second
    ]
