"""A probabilistic grammar: texts whose entropy is known exactly, so that no loss can be below it."""

import bisect
import graphlib
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

Unit = Literal["nats", "bits"]
Rules = Mapping[str, Sequence[tuple[float, str]]]

# Subject and verb agree in number, however much a relative clause puts between them. Every choice
# shows in the words, so a string has one derivation; "\n" ends it and occurs nowhere else, so a
# stream of strings can be cut apart again.
ENGLISH: Rules = {
    "text": [(1.0, "<sentence>.\n")],
    "sentence": [(0.55, "<one> <does>"), (0.45, "<many> <do>")],
    "one": [(0.7, "the <noun>"), (0.3, "the <noun> that <does>")],
    "many": [(0.7, "the <noun>s"), (0.3, "the <noun>s that <do>")],
    "does": [(0.5, "<rests>s"), (0.5, "<acts>s <object>")],
    "do": [(0.5, "<rests>"), (0.5, "<acts> <object>")],
    "object": [(0.6, "<one>"), (0.4, "<many>")],
    "noun": [(0.4, "cat"), (0.3, "dog"), (0.2, "bird"), (0.1, "king")],
    "rests": [(0.5, "sleep"), (0.3, "sing"), (0.2, "wait")],
    "acts": [(0.5, "see"), (0.3, "follow"), (0.2, "hear")],
}


class ProbabilisticGrammar:
    """A context-free grammar with a probability for every rule.

    `rules` maps a name to its (probability, body) pairs; in a body <name> stands for one of that
    name's bodies, everything else is text. The first name is where a string starts.
    Raises: ValueError for probabilities that are not positive or do not sum to 1, an undefined
    name, a left-recursive name, or rules that go on for ever (spectral radius of A at least 1).
    Source: Soule 1974, "Entropies of probabilistic grammars"; Chi 1999, "Statistical properties of
    probabilistic context-free grammars".
    """

    def __init__(self, rules: Rules = ENGLISH) -> None:
        if not rules:
            raise ValueError("rules must hold at least one name, got none")
        self.names = tuple(rules)
        self._rules = {
            name: [(p, _parse_body(body)) for p, body in bodies] for name, bodies in rules.items()
        }
        for name in self.names:
            self._check_rules(name)
        self._cumulative = {
            name: list(itertools.accumulate(p for p, _ in bodies))
            for name, bodies in self._rules.items()
        }
        self._left_corners_first = self._order_by_left_corner()

        index = {name: i for i, name in enumerate(self.names)}
        A = np.zeros((len(index), len(index)))  # A[i, j]: names j expected in a body of name i
        h = np.zeros(len(index))  # entropy of the choice among a name's bodies, nats
        characters = np.zeros(len(index))  # characters expected in a body's own text
        for name, i in index.items():
            for p, body in self._rules[name]:
                h[i] -= p * math.log(p)
                for part in body:
                    if isinstance(part, _Name):
                        A[i, index[part.name]] += p
                    else:
                        characters[i] += p * len(part)
        radius = float(np.abs(np.linalg.eigvals(A)).max())
        if radius > 1 - 1e-9:  # at exactly 1 a string ends, but its expected length is infinite
            raise ValueError(
                f"the rules do not end: their expected counts have spectral radius {radius:.4g}, "
                "which must be below 1; give recursive rules less probability"
            )
        self._entropy, self._expected_length = (
            float(np.linalg.solve(np.eye(len(index)) - A, own)[0]) for own in (h, characters)
        )

    def entropy(self, *, unit: Unit = "nats") -> float:
        """H of one string: the first component of (I - A)^-1 h.

        It is the derivation's entropy, and the string's own if no string has two derivations.
        Raises: ValueError for an unknown unit.
        """
        return _in_unit(self._entropy, unit)

    def expected_length(self) -> float:
        """Characters of one string, on average."""
        return self._expected_length

    def entropy_per_character(self, *, unit: Unit = "nats") -> float:
        """H over the expected length: the entropy rate of a stream of strings, end to end.

        No model's expected loss per character of that stream is lower, if no string has two
        derivations and none begins another (a last "\\n" sees to that).
        Raises: ValueError for an unknown unit.
        """
        return _in_unit(self._entropy / self._expected_length, unit)

    def sample(self, n: int, *, seed: int) -> list[str]:
        """n independent strings; the same for the same seed. Raises: ValueError for n below 0."""
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        generator = random.Random(seed)
        return [self._sample_one(generator) for _ in range(n)]

    def log_probability(self, string: str) -> float:
        """ln of the string's probability, summed over its derivations; -inf if it has none."""
        # ends[i][name][j]: ln of the probability that `name` becomes string[i:j]. What a name needs
        # lies further right, or at the same i in its left corners, which come first.
        ends: list[dict[str, dict[int, float]]] = [{} for _ in range(len(string) + 1)]
        for i in reversed(range(len(string) + 1)):
            for name in self._left_corners_first:
                total: dict[int, float] = {}
                for p, body in self._rules[name]:
                    so_far = {i: math.log(p)}
                    for part in body:
                        longer: dict[int, float] = {}
                        for j, log_p in so_far.items():
                            if isinstance(part, _Name):
                                for k, log_q in ends[j][part.name].items():
                                    _log_add(longer, k, log_p + log_q)
                            elif string.startswith(part, j):
                                _log_add(longer, j + len(part), log_p)
                        so_far = longer
                    for j, log_p in so_far.items():
                        _log_add(total, j, log_p)
                ends[i][name] = total
        return ends[0][self.names[0]].get(len(string), -math.inf)

    def _sample_one(self, generator: random.Random) -> str:
        text = []
        stack: list[_Name | str] = [_Name(self.names[0])]
        while stack:
            part = stack.pop()
            if isinstance(part, _Name):
                cumulative = self._cumulative[part.name]
                # Rounding may leave the last sum a little below or above 1.
                rule = bisect.bisect_right(cumulative, generator.random() * cumulative[-1])
                stack.extend(reversed(self._rules[part.name][rule][1]))
            else:
                text.append(part)
        return "".join(text)

    def _check_rules(self, name: str) -> None:
        bodies = self._rules[name]
        for p, body in bodies:
            if not p > 0:
                raise ValueError(f"every probability must be positive, got {p} in <{name}>")
            for part in body:
                if isinstance(part, _Name) and part.name not in self._rules:
                    raise ValueError(
                        f"<{name}> uses <{part.name}>, which has no rule; the names are "
                        f"{', '.join(self.names)}"
                    )
        total = math.fsum(p for p, _ in bodies)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the probabilities of <{name}> must sum to 1, got {total:.10g}")

    def _order_by_left_corner(self) -> list[str]:
        empty: set[str] = set()  # names that may become the empty string

        def left_corners(body: list["_Name | str"]) -> Iterator[str]:
            for part in body:
                if not isinstance(part, _Name):
                    return
                yield part.name
                if part.name not in empty:
                    return

        for _ in self.names:  # each round finds one more, or there are no more to find
            empty |= {
                name
                for name, bodies in self._rules.items()
                if any(
                    all(isinstance(part, _Name) and part.name in empty for part in body)
                    for _, body in bodies
                )
            }
        corners = {
            name: {corner for _, body in bodies for corner in left_corners(body)}
            for name, bodies in self._rules.items()
        }
        try:
            return list(graphlib.TopologicalSorter(corners).static_order())
        except graphlib.CycleError as error:
            cycle = " -> ".join(f"<{name}>" for name in reversed(error.args[1]))
            raise ValueError(
                f"a name may not begin one of its own bodies: {cycle}; put text before it"
            ) from None


class _Name(NamedTuple):
    name: str


def _parse_body(body: str) -> list[_Name | str]:
    pieces = re.split(r"<([^<>]*)>", body)  # text at even places, names at odd ones
    parts = [_Name(piece) if i % 2 else piece for i, piece in enumerate(pieces)]
    return [part for part in parts if part != ""]


def _log_add(totals: dict[int, float], key: int, log_p: float) -> None:
    """totals[key] = ln(exp(totals[key]) + exp(log_p)), where an absent key stands for ln 0."""
    if key in totals:
        larger, smaller = max(totals[key], log_p), min(totals[key], log_p)
        log_p = larger + math.log1p(math.exp(smaller - larger))
    totals[key] = log_p


def _in_unit(nats: float, unit: str) -> float:
    if unit not in get_args(Unit):
        raise ValueError(f"unit is {unit!r}; choose 'nats' or 'bits'")
    return nats if unit == "nats" else nats / math.log(2)
