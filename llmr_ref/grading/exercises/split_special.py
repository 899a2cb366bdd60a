"""Exercise: a text cut at its special tokens, of two that fit the longer."""

# mypy: disable-error-code="var-annotated"
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.split_words import drawn_words
from llmr_ref.pretokenization import special_token_pattern


def split_special(text: str, special_tokens: list[str]) -> list[str]:
    """The text in pieces, special tokens in pieces of their own; no piece is empty."""
    specials = special_token_pattern(special_tokens)
    pieces = [text] if specials is None else specials.split(text)
    return [piece for piece in pieces if piece]


exercise = Exercise(
    "split_special",
    points=3,
    difficulty=3,
    minutes=20,
    reference=split_special,
    chapter="tokenization#special-tokens",
)

END, LONG = "<|end|>", "<|end|><|end|>"


@exercise.property("every special token is a piece of its own", weight=2)
def own_pieces(draw: Draw):
    a, b, c = drawn_words(draw, "abcdefgh", 3, 3)
    yield Case((f"x{a} {END} y{b}", [END]), note="one special token")
    yield Case((f"{a}y{END}z{b}{END}x{c}", [END]), note="the same one twice")
    yield Case((f"{a}[a]{b}(b)z{c}", ["[a]", "(b)"]), note="two special tokens")
    yield Case((f"{a}xendy{b}|", [END, "."]), note="a text without special tokens")
    yield Case((f"{a}<|END|>y{b}", [END]), note="capitals where the special token has none")


@exercise.property("where two fit, the longer one is taken", weight=1.5)
def longest(draw: Draw):
    a = drawn_words(draw, "abcdefgh", 1, 1)[0]
    yield Case((f"{a}{LONG}y", [END, LONG]), note="the shorter one listed first")
    yield Case((f"{a}{LONG}y{END}", [LONG, END]), note="the longer one listed first")
    yield Case((f"{END}{END}{END}z{a}", [END, LONG]), note="three in a row")
    yield Case((f"y<a>{a}<a><ab>", ["<a", "<ab>", "<a>"]), note="three that begin alike")


@exercise.property("what begins first is taken first, also when something longer overlaps it")
def leftmost(draw: Draw):
    a = drawn_words(draw, "abcdefgh", 1, 1)[0]
    yield Case((f"{a}<s><t>", ["<s>", "><t>"]), note="a longer token that begins inside another")


@exercise.property("pieces are never empty, and joined they are the text", weight=1)
def no_empty_pieces(draw: Draw):
    a, b = drawn_words(draw, "abcdefgh", 2, 2)
    yield Case((f"{END}x{a}{END}{END}{b}y{END}", [END]), note="special tokens at the ends")
    yield Case((f" {a} {END}\n", [END]), note="white space beside special tokens")
    yield Case((f"{a}{END}", []), note="no special tokens")
    yield Case(("", [END]), note="an empty text")


@exercise.wrong(
    "takes the special tokens for patterns",
    hint="In a regular expression the bar means or, and brackets and dots have meanings as well. Which "
    "function of `re` takes them literally?",
    see="tokenization#special-tokens",
)
def unescaped(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(sorted(special_tokens, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


@exercise.wrong(
    "takes the special tokens in the order of the list",
    hint="A regular expression tries its alternatives in order and keeps the first that fits. When "
    "one special token begins with another, which must come first?",
    see="tokenization#special-tokens",
)
def as_listed(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, special_tokens))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


@exercise.wrong(
    "takes the shortest special token that fits",
    hint="You sorted by length, but which end comes first? Try a token that is two of another.",
    see="tokenization#special-tokens",
)
def shortest(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len)))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


@exercise.wrong(
    "takes capitals for small letters",
    hint="A special token is recognised letter by letter, as it is written. Which flag did you give to "
    "the pattern?",
    see="tokenization#special-tokens",
)
def any_case(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece for piece in re.split(f"({pattern})", text, flags=re.IGNORECASE) if piece]


@exercise.wrong(
    "throws the special tokens away",
    hint="Join your pieces: is it the text? `re.split` keeps what it splits at only when the pattern "
    "has a group.",
    see="tokenization#special-tokens",
)
def drops_them(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece for piece in re.split(pattern, text) if piece]


@exercise.wrong(
    "leaves empty pieces",
    hint="Between two special tokens in a row, and at the ends, `re.split` leaves empty pieces. They "
    "have no tokens, so drop them.",
    see="tokenization#special-tokens",
)
def empty_pieces(text, special_tokens):
    import re

    if not special_tokens:
        return [text]
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return re.split(f"({pattern})", text)


@exercise.wrong(
    "falls apart without special tokens",
    hint="An empty list makes an empty pattern, which fits everywhere. What should the pieces be when "
    "there is nothing to cut at?",
    see="tokenization#special-tokens",
)
def empty_pattern(text, special_tokens):
    import re

    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


@exercise.wrong(
    "cuts out the longest special token everywhere before it looks for the others",
    hint="A longer token may overlap one that begins before it, and the text is read from left to "
    "right. Look for all of them at once.",
    see="tokenization#special-tokens",
)
def longest_everywhere(text, special_tokens):
    import re

    pieces = [text]
    for special in sorted(special_tokens, key=len, reverse=True):
        split = []
        for piece in pieces:
            known = piece in special_tokens
            split += [piece] if known else re.split(f"({re.escape(special)})", piece)
        pieces = split
    return [piece for piece in pieces if piece]


@exercise.wrong(
    "cuts at the first occurrence only",
    hint="A special token can stand in a text more than once: every document ends with one. What "
    "makes your search stop?",
    see="tokenization#special-tokens",
)
def first_only(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece for piece in re.split(f"({pattern})", text, maxsplit=1) if piece]


@exercise.wrong(
    "strips white space from the pieces",
    hint="Join your pieces: spaces and line ends are missing. They are a part of the text.",
    see="tokenization#reversible",
)
def strips(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece.strip() for piece in re.split(f"({pattern})", text) if piece.strip()]


@exercise.wrong(
    "glues special tokens that stand in a row together",
    hint="Two special tokens side by side are two pieces. Which sign in your pattern means one or "
    "more?",
    see="tokenization#special-tokens",
)
def glued(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return [piece for piece in re.split(f"((?:{pattern})+)", text) if piece]


@exercise.wrong(
    "returns the special tokens alone",
    hint="The text between special tokens has to be encoded as well. Join your pieces: is it the "
    "text?",
    see="tokenization#special-tokens",
)
def specials_alone(text, special_tokens):
    import re

    if not special_tokens:
        return []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    return re.findall(pattern, text)


@exercise.wrong(
    "keeps a special token together with the text before it",
    hint="A special token is a piece of its own, since it becomes one id. Is yours?",
    see="tokenization#special-tokens",
)
def with_the_text(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    pattern = "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))
    parts = [*re.split(f"({pattern})", text), ""]
    pieces = [parts[i] + parts[i + 1] for i in range(0, len(parts) - 1, 2)]
    return [piece for piece in pieces if piece]


@exercise.right("one pattern, the longest alternative first")
def one_pattern(text, special_tokens):
    import re

    if not special_tokens:
        return [text] if text else []
    alternatives = sorted(special_tokens, key=len, reverse=True)
    pattern = "(" + "|".join(re.escape(token) for token in alternatives) + ")"
    return [piece for piece in re.split(pattern, text) if piece]


exercise.equivalent(
    "sorted(special_tokens, key=len, reverse=True) -> sorted(special_tokens, reverse=True)",
    because="of two that fit at one place the shorter is the beginning of the longer, and a beginning "
    "sorts before the whole",
)


@exercise.right("a walk through the text")
def walk(text, special_tokens):
    pieces, start, i = [], 0, 0
    while i < len(text):
        fitting = [token for token in special_tokens if text.startswith(token, i)]
        if fitting:
            longest = max(fitting, key=len)
            if start < i:
                pieces.append(text[start:i])
            pieces.append(longest)
            i += len(longest)
            start = i
        else:
            i += 1
    if start < len(text):
        pieces.append(text[start:])
    return pieces


@exercise.right("the earliest and longest match, then the rest")
def earliest(text, special_tokens):
    pieces = []
    while text:
        found = [(text.find(token), -len(token)) for token in special_tokens if token in text]
        if not found:
            return [*pieces, text]
        start, length = min(found)
        if start:
            pieces.append(text[:start])
        pieces.append(text[start : start - length])
        text = text[start - length :]
    return pieces
