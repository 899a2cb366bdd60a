"""Exercise: the words within which byte-pair encoding works."""

# mypy: disable-error-code="var-annotated"
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.pretokenization import PLAIN_PATTERN, WordSplitter, utf8

_SPLITTER = WordSplitter(PLAIN_PATTERN)


def split_words(text: str) -> list[bytes]:
    """Stretches of white space and of everything else, in order, each as its UTF-8 bytes."""
    return [utf8(word) for word in _SPLITTER.words(text)]


def drawn_words(draw: Draw, alphabet: str, n_different: int, n: int) -> list[str]:
    """n words of 1 to 5 letters, from n_different ones, so that some come again."""
    known = [
        "".join(
            alphabet[i] for i in draw.integers(0, len(alphabet) - 1, draw.integer(1, 5)).tolist()
        )
        for _ in range(n_different)
    ]
    return [known[i] for i in draw.integers(0, n_different - 1, n).tolist()]


exercise = Exercise(
    "split_words",
    points=2,
    difficulty=1,
    minutes=10,
    reference=split_words,
    chapter="tokenization#words-first",
)


@exercise.property("stretches of white space and of visible characters alternate", weight=2)
def alternate(draw: Draw):
    a, b, c = drawn_words(draw, "abcdefgh", 3, 3)
    yield Case((f"{a} {b}",), note="two words and a space")
    yield Case((f"{a}, {b.title()}'s {c}!",), note="signs and capitals")
    yield Case((f"{a}  {b}\n\n{c}\t{a}",), note="several blanks in a row")
    yield Case(
        (f"Act {draw.integer(1, 5)}: it's {a} {b}",), note="a digit, a colon and an apostrophe"
    )


@exercise.property("joined, the words are the text")
def nothing_lost(draw: Draw):
    a, b = drawn_words(draw, "abcdefgh", 2, 2)
    yield Case((f" {a} {b}\n",), note="white space at both ends")
    yield Case((f"{a} {a}\n{b} {a}",), note="a word that comes again")
    yield Case((" \n",), note="white space alone")
    yield Case(("",), note="an empty text")


@exercise.property("a word is the bytes of its UTF-8")
def as_bytes(draw: Draw):
    a, b = drawn_words(draw, "abéüñßλ", 2, 2)
    yield Case((f"é{a} {b}ø",), note="accents")
    yield Case((f"{b} 🙂 x",), note="an emoji")
    yield Case((f"a\u00a0{b}\u2003{a}",), note="white space that is not ASCII")


@exercise.wrong(
    "throws the white space away",
    hint="Join your words: is it the text? A tokenizer that loses spaces and line ends cannot give "
    "a play back.",
    see="tokenization#reversible",
)
def drops_blanks(text):
    return [word.encode() for word in text.split()]


@exercise.wrong(
    "cuts at single spaces only",
    hint="A line end is white space too, and so are tabs; and the spaces themselves are words. Join "
    "what you return and compare with the text.",
    see="tokenization#words-first",
)
def at_spaces(text):
    return [word.encode() for word in text.split(" ")]


@exercise.wrong(
    "takes every blank for a word of its own",
    hint="A stretch of white space is one word, however long. Which sign in your pattern says "
    '"one or more"?',
    see="tokenization#words-first",
)
def single_blanks(text):
    import re

    return [word.encode() for word in re.findall(r"\S+|\s", text)]


@exercise.wrong(
    "leaves the space with the word after it",
    hint="That is how GPT-2 splits, and it compresses better. The plain rule of this exercise keeps "
    "white space apart from what is visible.",
    see="tokenization#words-first",
)
def space_with_the_word(text):
    import re

    return [word.encode() for word in re.findall(r" ?\S+|\s+", text)]


@exercise.wrong(
    "cuts at punctuation",
    hint="A comma is visible, so it stays with its word, and so does the apostrophe of don't. Only "
    "white space separates.",
    see="tokenization#words-first",
)
def at_punctuation(text):
    import re

    return [word.encode() for word in re.findall(r"\w+|[^\w\s]+|\s+", text)]


@exercise.wrong(
    "returns text instead of bytes",
    hint="The words are right. Byte-pair encoding works on bytes: which method of a str gives them?",
    see="tokenization#general",
)
def as_text(text):
    import re

    return re.findall(r"\S+|\s+", text)


@exercise.wrong(
    "loses what one byte cannot write",
    hint="Not every character fits one byte. In which encoding has every character a spelling?",
    see="tokenization#general",
)
def ascii_alone(text):
    import re

    return [word.encode("ascii", "ignore") for word in re.findall(r"\S+|\s+", text)]


@exercise.wrong(
    "makes every letter small",
    hint="After decoding, the capitals are gone. What may a tokenizer change in a text?",
    see="tokenization#reversible",
)
def lower(text):
    import re

    return [word.encode() for word in re.findall(r"\S+|\s+", text.lower())]


@exercise.wrong(
    "strips the ends of the text",
    hint="Blanks at the beginning and at the end are a part of the text as well. What does `strip` "
    "take away?",
    see="tokenization#reversible",
)
def stripped(text):
    import re

    return [word.encode() for word in re.findall(r"\S+|\s+", text.strip())]


@exercise.wrong(
    "leaves empty words at the ends",
    hint="`re.split` gives an empty piece before a separator at the beginning and after one at the "
    "end. An empty word has no bytes to merge.",
    see="tokenization#words-first",
)
def empty_words(text):
    import re

    return [word.encode() for word in re.split(r"(\s+)", text)]


@exercise.wrong(
    "lists every word once",
    hint="How often a word occurs decides what is merged, and a text needs all its words in order. "
    "Which of your steps forgets repetitions?",
    see="tokenization#words-first",
)
def once(text):
    import re

    return [word.encode() for word in dict.fromkeys(re.findall(r"\S+|\s+", text))]


@exercise.wrong(
    "looks for white space among the bytes",
    hint="Some white space has several bytes, such as the space that does not break a line. Find the "
    "words first, then encode them.",
    see="tokenization#words-first",
)
def on_bytes(text):
    import re

    return re.findall(rb"\S+|\s+", text.encode())


@exercise.wrong(
    "takes line ends and tabs for visible characters",
    hint="White space is more than the space. Print the words of a text with two lines.",
    see="tokenization#words-first",
)
def spaces_only(text):
    import re

    return [word.encode() for word in re.findall(r"[^ ]+| +", text)]


@exercise.right("a regular expression")
def pattern(text):
    import re

    return [word.encode() for word in re.findall(r"\S+|\s+", text)]


@exercise.right("groups of neighbours of one kind")
def grouped(text):
    from itertools import groupby

    return ["".join(group).encode("utf-8") for _, group in groupby(text, str.isspace)]


@exercise.right("a loop over the characters")
def loop(text):
    words = []
    for i, character in enumerate(text):
        if i and character.isspace() == text[i - 1].isspace():
            words[-1] += character
        else:
            words.append(character)
    return [bytes(word, "utf-8") for word in words]
