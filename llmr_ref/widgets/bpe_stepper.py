"""The BPE stepper: the merges of byte-pair encoding on the reader's own text, forwards and back.

>>> BPEStepper()  # the chapter's six words, after two merges
>>> BPEStepper("she sells sea shells", step=0)
>>> BPEStepper("naïve café", words="gpt2", tie_break="first")
>>> BPEStepper(train=train_bpe)  # a student's (text, vocab_size) -> (vocab, merges)
>>> BPEStepper(merge=merge_pair)  # a student's (tokens, pair) -> tokens
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import traitlets

from llmr_ref.bpe_training import TieBreak, _explicit, learn_merges
from llmr_ref.pretokenization import DIGITS_PATTERN, GPT2_PATTERN, PLAIN_PATTERN, count_words
from llmr_ref.tokenizer import Merge
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import QUERY

SIX_WORDS = "low low low lower newest newest"
PATTERNS = {"plain": PLAIN_PATTERN, "gpt2": GPT2_PATTERN, "digits": DIGITS_PATTERN}
MOST_CHARACTERS = 2000
MOST_MERGES = 256


def apply_merges(word: bytes, merges: Sequence[Merge]) -> list[bytes]:
    """The tokens of a word after these merges, one after the other."""
    tokens = [bytes([byte]) for byte in word]
    for pair in merges:
        joined: list[bytes] = []
        end = -1  # where the last token that this merge made stands: it is not joined again
        for token in tokens:
            if joined and end != len(joined) - 1 and (joined[-1], token) == pair:
                joined[-1] += token
                end = len(joined) - 1
            else:
                joined.append(token)
        tokens = joined
    return tokens


class BPEStepper(StudentsWidget):
    """Pairs counted, the best one joined in every word, again and again; `step` merges are made.

    text: up to 2000 characters. words: how it is split, "plain", "gpt2" or "digits". tie_break: which of
    several most frequent pairs is joined, as in `llmr_ref.bpe_training`. The figure stops at 256 merges.
    train: a student's train_bpe(text, vocab_size), asked for each text and drawn beside the reference.
    merge: a student's merge_pair(tokens, pair), asked for every word and every merge of the reference.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("bpe_stepper")

    text = traitlets.Unicode(SIX_WORDS).tag(sync=True)
    words = traitlets.Enum(tuple(PATTERNS), "plain").tag(sync=True)
    tie_break = traitlets.Enum(("greatest", "first", "gpt2"), "greatest").tag(sync=True)
    step = traitlets.Int(2).tag(sync=True)
    code = traitlets.List(
        code_lines(
            _explicit,
            begin="counts: Counter",
            words="for word, n in words.items",
            count="counts[pair] += n",
            best="max(counts.values())",
            tie="best = max(ties",
            join="_join(ids, best",
            new="tokens.append(",
        )
    ).tag(sync=True)

    def __init__(
        self,
        text: str = SIX_WORDS,
        *,
        train: Callable[..., Any] | None = None,
        merge: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        for name, function in (("train", train), ("merge", merge)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        if train is not None and merge is not None:
            raise ValueError("give train or merge, not both: the figure compares one at a time")
        self._train: Callable[..., Any] | None = None  # asks nothing until the state is whole
        self._merge: Callable[..., Any] | None = None
        super().__init__(text=text, **settings)
        self._train, self._merge = train, merge
        self._ask_student()

    @traitlets.validate("text")
    def _check_text(self, proposal: Any) -> str:
        text: str = proposal["value"]
        if len(text) > MOST_CHARACTERS:
            raise StateError(f"text may have {MOST_CHARACTERS} characters, got {len(text)}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StateError(f"text cannot be written in UTF-8: {error}") from None
        return text

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> int:
        return within("step", proposal["value"], 0, MOST_MERGES)

    def counted(self) -> dict[str, int]:
        """The different words of the text, and how often each occurs."""
        return dict(count_words(self.text, [], pattern=PATTERNS[self.words]))

    def merges(self) -> list[Merge]:
        """All merges of the reference, at most 256."""
        return learn_merges(self.counted(), MOST_MERGES, tie_break=cast(TieBreak, self.tie_break))

    _STATE = ("text", "words", "tie_break")

    @traitlets.observe(*_STATE)
    def _ask_student(self, change: Any = None) -> None:
        """Send what the student's function makes of the present text, or its error."""
        question = self._trained if self._train else self._merged if self._merge else None
        if question is not None:
            self._ask_about(self._STATE, question)

    def _trained(self) -> dict[str, Any]:
        assert self._train is not None
        answer = self._train(self.text, 256 + len(self.merges()))
        try:
            _, merges = answer
            pairs = [[_latin(a), _latin(b)] for a, b in merges]
        except (TypeError, ValueError, AttributeError):
            raise TypeError(
                "it must return (vocab, merges) with merges a list of pairs of bytes, "
                f"got {answer!r:.80}"
            ) from None
        return {"kind": "train", "merges": pairs}

    def _merged(self) -> dict[str, Any]:
        """The first merge and word where the student's tokens are not the reference's."""
        assert self._merge is not None
        merges = self.merges()
        for n, pair in enumerate(merges):
            for word in self.counted():
                before = apply_merges(word.encode(), merges[:n])
                right = apply_merges(word.encode(), merges[: n + 1])
                got = self._merge(list(before), pair)
                if list(got) != right:
                    wrong = {
                        "step": n + 1,
                        "pair": [_latin(token) for token in pair],
                        "before": [_latin(token) for token in before],
                        "expected": [_latin(token) for token in right],
                        "got": [_latin(token) for token in got],
                    }
                    return {"kind": "merge", "wrong": wrong}
        return {"kind": "merge", "wrong": {}}

    def description(self) -> str:
        merges = self.merges()
        step = min(self.step, len(merges))
        counted = self.counted()
        after = {word: apply_merges(word.encode(), merges[:step]) for word in counted}
        n_bytes, n_tokens = (
            len(self.text.encode()),
            sum(n * len(after[w]) for w, n in counted.items()),
        )
        made = ", ".join(f"{_shown(a)} + {_shown(b)}" for a, b in merges[:step][:8])
        return (
            f"Byte-pair encoding of a text of {n_bytes} bytes after {step} of {len(merges)} merges"
            + (f" ({made}{', …' if step > 8 else ''})" if made else "")
            + f": {n_tokens} tokens, a vocabulary of {256 + step}."
        )

    def picture(self) -> str:
        merges = self.merges()
        rows = []
        for n in range(min(max(self.step, 5), len(merges), 9) + 1):
            name = "bytes" if n == 0 else " + ".join(map(_shown, merges[n - 1]))
            new = b"".join(merges[n - 1]) if n else None
            words = [apply_merges(w.encode(), merges[:n]) for w in islice(self.counted(), 12)]
            rows.append((name, [[(_shown(t), t == new) for t in word] for word in words]))
        return _rows_picture(rows)

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        texts = (
            SIX_WORDS,
            "dog. dog! dog? dog dog, the dog. the dog! the dog",
            "Don't stop  12!\n\nWe'll  pay 3500 €, né ώ ώ né.\t'S",
            "aaa aaaa banana bananas",
            "",
            "she sells sea shells by the sea shore; the shells she sells are sea shells I'm sure "
            * 3,
        )
        for text in texts:
            for words, pattern in PATTERNS.items():
                counted = dict(count_words(text, [], pattern=pattern))
                for tie_break in ("greatest", "first", "gpt2"):
                    merges = learn_merges(counted, 40, tie_break=tie_break)
                    lengths = [
                        sum(
                            n * len(apply_merges(w.encode(), merges[:step]))
                            for w, n in counted.items()
                        )
                        for step in range(len(merges) + 1)
                    ]
                    yield Golden(
                        "trainBpe",
                        [text, words, tie_break, 40],
                        {
                            "words": list(counted.items()),
                            "joined": [[_latin(a), _latin(b)] for a, b in merges],
                            "lengths": lengths,
                        },
                    )


def _rows_picture(rows: list[tuple[str, list[list[tuple[str, bool]]]]]) -> str:
    """A row (name, words of (token, is it new)) after the other, a box for every token."""
    letter, left, step = 9.0, 100, 28
    parts, width = [], 0.0
    for r, (name, words) in enumerate(rows):
        x, y = float(left), r * step + 4
        parts.append(f'<text x="{left - 12}" y="{y + 15}" text-anchor="end">{_escape(name)}</text>')
        for word in words:
            for text, new in word:
                wide = letter * max(len(text), 1) + 3
                shade = f'fill="{QUERY}" fill-opacity=".3"' if new else 'fill="none"'
                parts.append(
                    f'<rect x="{x:g}" y="{y}" width="{wide - 2:g}" height="20" rx="3" {shade} '
                    f'stroke="currentColor" stroke-opacity=".5"/><text x="{x + wide / 2 - 1:g}" '
                    f'y="{y + 15}" text-anchor="middle">{_escape(text)}</text>'
                )
                x += wide
            x += letter
        width = max(width, x)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="The words after every merge; '
        f'shaded: what it joined" viewBox="0 0 {width:g} {len(rows) * step + 4}" width="{width:g}" '
        f'height="{len(rows) * step + 4}"><g font-family="monospace" font-size="13" '
        f'fill="currentColor">{"".join(parts)}</g></svg>'
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latin(token: bytes) -> str:
    """One character a byte, as the module of the widget writes tokens."""
    return token.decode("latin-1")


def _shown(token: bytes) -> str:
    """As text where it is text, with a visible space; other bytes in hexadecimal."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return token.hex(" ").upper()
    return text.translate({32: "␣", 10: "⏎", 9: "⇥"})
