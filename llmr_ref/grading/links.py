"""Where a section of the book is, for hints and reports."""

import os

# Chapters that exercises point to, by the name used in `see="masking#off-by-one"`.
CHAPTERS = {"masking": "attention/masking", "rope": "transformer/rope"}

# `llmr book serve` and `llmr demo` serve the book here; a course that publishes it sets LLMR_BOOK_URL.
LOCAL_BOOK = "http://127.0.0.1:8000/book"


def section_url(see: str) -> str:
    """URL of "page#section". Raises: KeyError for a chapter that is not in CHAPTERS."""
    page, _, section = see.partition("#")
    base = os.environ.get("LLMR_BOOK_URL", LOCAL_BOOK).rstrip("/")
    return f"{base}/{CHAPTERS[page]}.html" + (f"#{section}" if section else "")


def section_title(see: str) -> str:
    """ "masking#off-by-one" as words: "masking, off by one"."""
    page, _, section = see.partition("#")
    return f"{page}, {section.replace('-', ' ')}" if section else page
