"""Text that students wrote, made fit for a page: it can be written, and shows what is in it."""

import unicodedata
from typing import Any

HIDDEN = ("Cc", "Cf", "Co", "Cs")  # Unicode's control, format, private and surrogate characters


def clean(text: Any, length: int) -> str:
    """The text cut to `length`, with what cannot be written or seen as its escape.

    Halves of characters would make a notebook unwritable; control and direction marks would let a text
    pass for another one. Raises: TypeError for what is no text.
    """
    if type(text) is not str:
        raise TypeError(f"expected text, got {type(text).__name__}")
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in HIDDEN else f"\\u{ord(c):04x}"
        for c in text[:length]
    )
