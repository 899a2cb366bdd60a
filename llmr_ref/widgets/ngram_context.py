"""Context length: what follows the last 0, 1, 2, ... words of a text, as its counts say.

>>> NgramContext()  # L1's "I visited San", in the chapter's diary
>>> NgramContext("hamlet", unit="letters", context="to s", n=5, estimate="kneser-ney")
>>> NgramContext(text="one fish two fish red fish blue fish", context="fish", n=2)
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import traitlets
from torch import Tensor

from llmr_ref.data import WordTokenizer
from llmr_ref.ngram import Estimate, NGramModel
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import bars_picture

DIARY = """
I visited San Francisco . we visited San Francisco in May . I visited San Diego with friends .
she flew to San Jose . they moved to San Jose . he lives in San Jose . the train stops in San Jose .
I visited Rome . we flew to Rome . he lives in Rome .
""".strip()
HAMLET = """
To be, or not to be: that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles,
And by opposing end them? To die: to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd. To die, to sleep;
To sleep: perchance to dream: ay, there's the rub;
For in that sleep of death what dreams may come
When we have shuffled off this mortal coil,
Must give us pause: there's the respect
That makes calamity of so long life;
For who would bear the whips and scorns of time,
The oppressor's wrong, the proud man's contumely,
The pangs of despised love, the law's delay,
The insolence of office and the spurns
That patient merit of the unworthy takes,
When he himself might his quietus make
With a bare bodkin? who would fardels bear,
To grunt and sweat under a weary life,
But that the dread of something after death,
The undiscover'd country from whose bourn
No traveller returns, puzzles the will
And makes us rather bear those ills we have
Than fly to others that we know not of?
Thus conscience does make cowards of us all;
And thus the native hue of resolution
Is sicklied o'er with the pale cast of thought,
And enterprises of great pith and moment
With this regard their currents turn awry,
And lose the name of action.--Soft you now!
The fair Ophelia! Nymph, in thy orisons
Be all my sins remember'd.
""".strip()
MOST_CHARACTERS = 4000
LONGEST = {"words": 5, "letters": 7}  # the largest n
SHOWN = 10


class NgramContext(EmbeddableWidget):
    """The next token's distribution behind a context, seen through windows of n - 1 tokens.

    source: "diary", "hamlet" or "own", then `text` is yours (2 tokens to 4000 characters). unit: what a
    token is, "words" or "letters". context: the text so far. n: up to 5 for words, 7 for letters.
    estimate, k: as of `llmr_ref.ngram.NGramModel`; "add-k" with k = 0 is the relative frequency.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("ngram_context")

    source = traitlets.Enum(("diary", "hamlet", "own"), "diary").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    unit = traitlets.Enum(("words", "letters"), "words").tag(sync=True)
    context = traitlets.Unicode("I visited San").tag(sync=True)
    n = traitlets.Int(3).tag(sync=True)
    estimate = traitlets.Enum(("add-k", "witten-bell", "kneser-ney"), "add-k").tag(sync=True)
    k = traitlets.Float(0.0).tag(sync=True)
    corpora = traitlets.Dict({"diary": DIARY, "hamlet": HAMLET}).tag(sync=True)
    code = traitlets.List(
        code_lines(
            NGramModel._estimate,
            begin='if self.estimate == "add-k"',
            add="(c + self.k)",
            mixed="(c + types * lower)",
            discount="((c - D)",
            lower="torch.where(total > 0",
        )
    ).tag(sync=True)

    def __init__(self, source: str = "diary", *, text: str | None = None, **settings: Any) -> None:
        if text is not None:
            settings |= {"text": text}
            source = "own"
        super().__init__(source=source, **settings)

    @traitlets.validate("text")
    def _check_text(self, proposal: Any) -> str:
        text: str = proposal["value"]
        if len(text) > MOST_CHARACTERS:
            raise StateError(f"text may have {MOST_CHARACTERS} characters, got {len(text)}")
        return text

    @traitlets.validate("context")
    def _check_context(self, proposal: Any) -> str:
        if len(proposal["value"]) > 200:
            raise StateError(f"context may have 200 characters, got {len(proposal['value'])}")
        text: str = proposal["value"]
        return text

    @traitlets.validate("n", "k")
    def _check_number(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        return within(name, proposal["value"], *((1, 7) if name == "n" else (0, 5)))

    def _tokens(self, text: str) -> list[str]:
        return text.split() if self.unit == "words" else list(text)

    def window(self) -> list[str]:
        """The last n - 1 tokens of the context, as far back as the text knows them."""
        n = min(self.n, LONGEST[self.unit])
        known = set(self._tokens(self.corpus()))
        tokens = self._tokens(self.context)
        tokens = tokens[len(tokens) - min(n - 1, len(tokens)) :]
        unknown = [i for i, token in enumerate(tokens) if token not in known]
        return tokens[unknown[-1] + 1 :] if unknown else tokens

    def corpus(self) -> str:
        """The text that is counted."""
        return self.text if self.source == "own" else str(self.corpora[self.source])

    def probabilities(self) -> dict[str, float] | None:
        """P(w | window) for every token w, None where the counts have no answer."""
        tokens = self._tokens(self.corpus())
        n = min(self.n, LONGEST[self.unit])
        if len(tokens) < max(2, n):
            return None
        names = sorted(set(tokens))
        p = next_distribution(tokens, self.window(), n, self.estimate, self.k)
        return None if p is None else dict(zip(names, p.tolist(), strict=True))

    def description(self) -> str:
        p = self.probabilities()
        window = self.window()
        after = f"after {' '.join(window)!r}" if window else "without a context"
        if p is None:
            return f"The counts of the text have no answer {after}: the context never occurred."
        likely = sorted(p, key=lambda token: -p[token])[:3]
        given = ", ".join(f"{token!r} {p[token]:.2f}" for token in likely)
        return f"An n-gram model with n = {self.n}, {self.estimate}: {after} comes {given}."

    def picture(self) -> str:
        p = self.probabilities() or {}
        likely = sorted(p, key=lambda token: -p[token])[:SHOWN]
        rows = [(token.replace(" ", "space"), p[token], f"{p[token]:.3f}") for token in likely]
        return bars_picture("Probability of the next token", rows or [("no estimate", 0.0, "")])

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        diary, letters = DIARY.split(), list(HAMLET)
        contexts = {
            "": (
                diary,
                [[], ["San"], ["visited", "San"], ["I", "visited", "San"], ["friends", "May"]],
            ),
            "letters": (letters, [[], ["e"], list("to s"), list("questi"), list("zzq")]),
        }
        for tokens, all_contexts in contexts.values():
            for estimate, k in (
                ("add-k", 0.0),
                ("add-k", 0.5),
                ("witten-bell", 1.0),
                ("kneser-ney", 1.0),
            ):
                for n in (1, 2, 3, 4, 5, 7):
                    for h in all_contexts:
                        window = h[max(0, len(h) - n + 1) :]
                        p = next_distribution(tokens, window, n, estimate, k)
                        yield Golden("nextDistribution", [tokens, window, n, estimate, k], p)
        small = [str(token) for token in (0, 1, 0, 1, 0, 2)]
        yield Golden(
            "nextDistribution",
            [small, ["0"], 2, "witten-bell", 0.0],
            next_distribution(small, ["0"], 2, "witten-bell", 0.0),
        )
        model = NGramModel(diary_ids := WordTokenizer.from_text(DIARY).encode(DIARY), 3)
        occur = [len(model._orders[m].keys) for m in range(3)]
        once = [int((model._orders[m].counts == 1).sum()) for m in range(3)]
        assert len(diary_ids) == len(diary)
        yield Golden(
            "sparsity",
            [diary, 3],
            [{"occur": a, "once": b} for a, b in zip(occur, once, strict=True)],
        )


def next_distribution(
    tokens: list[str], window: list[str], n: int, estimate: str, k: float
) -> Tensor | None:
    """The reference's P(w | window) for the sorted tokens; None where k = 0 leaves no answer."""
    names = sorted(set(tokens))
    ids = {token: i for i, token in enumerate(names)}
    model = NGramModel(
        torch.tensor([ids[token] for token in tokens]), n,
        estimate=cast(Estimate, estimate), k=k, vocab_size=len(names),
    )  # fmt: skip
    try:
        return model.probabilities([ids[token] for token in window])
    except ValueError:  # never followed by anything
        return None
