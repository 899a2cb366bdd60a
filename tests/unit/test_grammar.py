"""The grammar against full enumeration of its strings, closed forms and the spread of samples."""

import math
import re
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from llmr_ref.grammar import ENGLISH, ProbabilisticGrammar

# Left factors, empty bodies, two ways to one string: everything that the other grammar is not.
AMBIGUOUS = {
    "s": [(0.5, "<a><b>c"), (0.3, "<b><a>c"), (0.2, "x<s>")],
    "a": [(0.6, "a"), (0.4, "")],
    "b": [(0.7, "<a>b"), (0.3, "ab")],
}


def derivations(rules, max_length):
    """Every derivation's (string, probability) up to max_length characters, leftmost name first."""
    shortest = dict.fromkeys(rules, 0)
    for _ in rules:  # lower bounds of what a name becomes, to cut hopeless branches
        for name, bodies in rules.items():
            shortest[name] = min(least(body, shortest) for _, body in bodies)
    todo = [("", f"<{next(iter(rules))}>", 1.0)]
    while todo:
        done, rest, p = todo.pop()
        text, *more = re.split(r"<(.*?)>", rest, maxsplit=1)
        done += text
        if not more:
            yield done, p
            continue
        name, rest = more
        for q, body in rules[name]:
            if len(done) + least(body + rest, shortest) <= max_length:
                todo.append((done, body + rest, p * q))


def least(body, shortest):
    pieces = re.split(r"<(.*?)>", body)
    return sum(map(len, pieces[::2])) + sum(shortest[name] for name in pieces[1::2])


ENGLISH_TO_48 = 48


@pytest.fixture(scope="module")
def english():
    return list(derivations(ENGLISH, ENGLISH_TO_48))


def test_no_string_of_the_default_grammar_has_two_derivations(english):
    assert len(english) > 10_000
    assert max(Counter(string for string, _ in english).values()) == 1


def test_no_string_of_the_default_grammar_begins_another(english):
    assert all(string.index("\n") == len(string) - 1 for string, _ in english)


def test_log_probability_is_the_probability_of_the_derivation(english):
    grammar = ProbabilisticGrammar()
    for string, p in english[::97]:
        assert math.isclose(grammar.log_probability(string), math.log(p), rel_tol=1e-12)


@pytest.mark.parametrize("text", ["", "\n", "the cat sleeps.", "the cat sleep.\n", "the cats.\n"])
def test_what_the_grammar_does_not_derive_has_probability_zero(text):
    assert ProbabilisticGrammar().log_probability(text) == -math.inf


def test_log_probability_sums_over_derivations():
    grammar = ProbabilisticGrammar(AMBIGUOUS)
    total, count = defaultdict(float), Counter()
    for string, p in derivations(AMBIGUOUS, 9):
        total[string] += p
        count[string] += 1
    assert max(count.values()) > 2
    for string, p in total.items():
        assert math.isclose(grammar.log_probability(string), math.log(p), rel_tol=1e-12)


def test_log_probability_of_a_long_string_does_not_underflow():
    grammar = ProbabilisticGrammar({"s": [(0.001, "a<s>"), (0.999, "b")]})
    expected = 2000 * math.log(0.001) + math.log(0.999)
    assert math.isclose(grammar.log_probability("a" * 2000 + "b"), expected, rel_tol=1e-12)
    both = ProbabilisticGrammar({"s": [(0.25, "<x><s>"), (0.75, "b")], "x": [(0.5, "a")] * 2})
    expected = 3000 * math.log(0.25) + math.log(0.75)
    assert math.isclose(both.log_probability("a" * 3000 + "b"), expected, rel_tol=1e-12)


def test_entropy_and_length_are_those_of_the_enumerated_strings():
    # A grammar with finitely many strings: all of them can be summed up.
    rules = {
        "s": [(0.3, "<a> and <a>"), (0.7, "<b>")],
        "a": [(0.2, "x<b>"), (0.8, "yy")],
        "b": [(0.9, "pp"), (0.1, "qqq")],
    }
    grammar = ProbabilisticGrammar(rules)
    strings = list(derivations(rules, 100))
    assert math.isclose(sum(p for _, p in strings), 1)
    H = -sum(p * math.log(p) for _, p in strings)
    length = sum(p * len(string) for string, p in strings)
    assert math.isclose(grammar.entropy(), H, rel_tol=1e-12)
    assert math.isclose(grammar.entropy(unit="bits"), H / math.log(2), rel_tol=1e-12)
    assert math.isclose(grammar.expected_length(), length, rel_tol=1e-12)
    assert math.isclose(grammar.entropy_per_character(), H / length, rel_tol=1e-12)
    per_character = grammar.entropy_per_character(unit="bits")
    assert math.isclose(per_character, H / length / math.log(2), rel_tol=1e-12)


@given(p=st.floats(0.01, 0.9))
def test_entropy_of_a_recursive_rule_is_that_of_the_geometric_distribution(p):
    grammar = ProbabilisticGrammar({"s": [(p, "a<s>"), (1 - p, "\n")]})
    H = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / (1 - p)
    assert math.isclose(grammar.entropy(), H, rel_tol=1e-9)
    assert math.isclose(grammar.expected_length(), p / (1 - p) + 1, rel_tol=1e-9)


def test_the_default_grammars_entropy_is_the_mean_surprise_of_its_samples():
    grammar = ProbabilisticGrammar()
    strings = grammar.sample(800, seed=1)
    surprise = torch.tensor([-grammar.log_probability(s) for s in strings], dtype=torch.float64)
    length = torch.tensor([len(s) for s in strings], dtype=torch.float64)
    for values, expected in (
        (surprise, grammar.entropy()),
        (length, grammar.expected_length()),
    ):
        standard_error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - expected) < 4 * standard_error
        assert standard_error < expected / 40


def test_samples_have_the_frequencies_of_their_probabilities():
    strings = dict(derivations(ENGLISH, 17))  # no two derivations of one string, as shown above
    n = 30_000
    counts = Counter(ProbabilisticGrammar().sample(n, seed=3))
    observed = [counts[string] for string in strings]
    rest = n - sum(observed)
    expected = [n * p for p in strings.values()]
    assert min(expected) > 5
    assert len(expected) > 20
    assert chisquare([*observed, rest], [*expected, n - sum(expected)]).pvalue > 1e-3


def test_samples_repeat_with_their_seed_alone():
    grammar = ProbabilisticGrammar()
    assert grammar.sample(20, seed=5) == grammar.sample(20, seed=5)
    assert grammar.sample(20, seed=5)[:7] == grammar.sample(7, seed=5)
    assert grammar.sample(20, seed=5) != grammar.sample(20, seed=6)
    assert grammar.sample(0, seed=5) == []


def test_a_rule_is_drawn_though_probabilities_round_to_less_than_one():
    tenths = ProbabilisticGrammar({"s": [(0.1, digit) for digit in "0123456789"]})
    assert {*tenths.sample(500, seed=0)} == {*"0123456789"}


def test_subject_and_verb_agree_over_any_distance():
    for string in ProbabilisticGrammar().sample(300, seed=2):
        words = string.rstrip(".\n").split()
        subject_is_one = not words[1].endswith("s")
        depth_verb = [w for w in words if w.rstrip("s") in {"sleep", "sing", "wait"}]
        if "that" not in words:
            assert words[2].endswith("s") == subject_is_one
        elif len(words) == 5 and len(depth_verb) == 2:  # the cat that sings sleeps
            assert words[3].endswith("s") == words[4].endswith("s") == subject_is_one


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "at least one name"),
        ({"s": [(0.5, "a"), (0.4, "b")]}, r"probabilities of <s> must sum to 1, got 0\.9"),
        ({"s": []}, r"probabilities of <s> must sum to 1, got 0"),
        ({"s": [(1.5, "a"), (-0.5, "b")]}, r"must be positive, got -0\.5 in <s>"),
        ({"s": [(1.0, "a"), (0.0, "b")]}, r"must be positive, got 0\.0 in <s>"),
        ({"s": [(math.nan, "a")]}, "must be positive, got nan in <s>"),
        ({"s": [(1.0, "a<t>")]}, "<s> uses <t>, which has no rule; the names are s"),
        ({"s": [(0.6, "a<s><s>"), (0.4, "b")]}, r"do not end.* spectral radius 1\.2"),
        ({"s": [(0.5, "a<s><s>"), (0.5, "b")]}, "do not end.* spectral radius 1,"),
        ({"s": [(1.0, "a<s>")]}, "do not end"),
        ({"s": [(0.1, "<s>a"), (0.9, "b")]}, "may not begin one of its own bodies: <s> -> <s>"),
        (
            {
                "s": [(0.1, "<e><t>"), (0.9, "b")],
                "t": [(0.1, "<s>"), (0.9, "c")],
                "e": [(0.5, ""), (0.5, "<f>")],
                "f": [(1.0, "f")],
            },
            "may not begin",
        ),
    ],
)
def test_rules_that_define_no_distribution_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        ProbabilisticGrammar(rules)


def test_a_name_behind_one_that_is_never_empty_begins_nothing():
    rules = {"s": [(0.1, "<e><s>"), (0.9, "b")], "e": [(0.5, "x"), (0.5, "<f>")], "f": [(1, "f")]}
    assert math.isclose(ProbabilisticGrammar(rules).log_probability("fb"), math.log(0.045))


def test_a_unit_or_a_number_of_strings_that_does_not_exist_is_named():
    grammar = ProbabilisticGrammar()
    for method in (grammar.entropy, grammar.entropy_per_character):
        with pytest.raises(ValueError, match="unit is 'bytes'; choose 'nats' or 'bits'"):
            method(unit="bytes")
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        grammar.sample(-1, seed=0)
