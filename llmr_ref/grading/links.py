"""Where a section of the book is, for hints and reports."""

import os

# Chapters that exercises point to, by the name used in `see="masking#off-by-one"`.
CHAPTERS = {
    "n-grams": "language-models/n-grams",
    "perplexity": "language-models/perplexity",
    "tokenization": "language-models/tokenization",
    "neural-language-models": "language-models/neural-language-models",
    "recurrent-networks": "language-models/recurrent-networks",
    "attention": "attention/attention",
    "self-attention": "attention/self-attention",
    "masking": "attention/masking",
    "multi-head": "attention/multi-head",
    "block": "transformer/block",
    "rope": "transformer/rope",
    "the-language-model": "transformer/the-language-model",
    "positions": "transformer/positions",
    "relative-positions": "transformer/relative-positions",
    "longer-contexts": "transformer/longer-contexts",
    "nope": "transformer/nope",
    "backprop": "training/backprop",
    "backprop-tensors": "training/backprop-tensors",
    "training-a-language-model": "training/training-a-language-model",
    "training-run": "training/training-run",
    "how-big": "training/how-big",
    "scaling": "training/scaling",
    "sampling": "using/sampling",
    "fast-inference": "using/fast-inference",
    "quantization": "using/quantization",
    "post-training": "using/post-training",
    "policy-gradients": "using/policy-gradients",
}

# `llmr book serve` and `llmr demo` serve the book here; a course that publishes it sets LLMR_BOOK_URL.
LOCAL_BOOK = "http://127.0.0.1:8000/book"


def in_the_book(see: str) -> bool:
    """Whether "page#section" is a chapter of it: an old record may name another."""
    page = see.partition("#")[0]
    return page in CHAPTERS


def section_url(see: str) -> str:
    """URL of "page#section". Raises: KeyError for a chapter that is not in CHAPTERS."""
    page, _, section = see.partition("#")
    base = os.environ.get("LLMR_BOOK_URL", LOCAL_BOOK).rstrip("/")
    return f"{base}/{CHAPTERS[page]}.html" + (f"#{section}" if section else "")


def section_title(see: str) -> str:
    """ "masking#off-by-one" as words: "masking, off by one"."""
    page, _, section = see.partition("#")
    return f"{page}, {section.replace('-', ' ')}" if section else page
