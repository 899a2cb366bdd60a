"""Exercise: bits per byte and per character, which do not depend on how a text was cut."""

import math

import torch
from torch import Tensor

from llmr_ref import ngram
from llmr_ref.grading.exercise import Case, Draw, Exercise

TOLERANCE = 1e-5  # relative; float32 is enough

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ACCENTED = "éüøñßλжşœ"  # two bytes each


def bits_per_unit(losses: Tensor, text: str, unit: str = "byte") -> float:
    """The losses of a text's tokens in nats, as bits per UTF-8 byte or per character of the text."""
    nats = losses.double().sum()
    if unit == "byte":
        return ngram.bits_per_byte(nats, len(text.encode()))
    return ngram.bits_per_character(nats, len(text))


exercise = Exercise(
    "bits_per_unit",
    points=2,
    difficulty=2,
    minutes=10,
    reference=bits_per_unit,
    chapter="perplexity#bits-per-byte",
)


def drawn_text(draw: Draw, alphabet: str, length: int) -> str:
    """`length` characters of an alphabet."""
    return "".join(alphabet[i] for i in draw.integers(0, len(alphabet) - 1, length).tolist())


def losses(draw: Draw, n: int) -> Tensor:
    """Between 0.5 and 6 nats or so."""
    return draw.normal(n).abs().mul(2).add(0.5)


def measured(values, text, note, **kwargs):
    return Case((values, text), kwargs, note=note, tolerance=TOLERANCE)


@exercise.property("all losses together, in bits, are shared by the bytes of the text", weight=2)
def per_byte(draw: Draw):
    yield measured(losses(draw, 2), drawn_text(draw, LETTERS, 5), "two tokens of ASCII")
    yield measured(losses(draw, 9), drawn_text(draw, LETTERS, 9), "as many tokens as letters")
    yield measured(losses(draw, 1), drawn_text(draw, LETTERS, draw.integer(6, 12)), "one token")
    yield measured(losses(draw, 30), drawn_text(draw, LETTERS, 11), "more tokens than letters")


@exercise.property("a character can have several bytes", weight=1.5)
def several_bytes(draw: Draw):
    text = drawn_text(draw, ACCENTED, 4) + drawn_text(draw, LETTERS, 3)
    yield measured(losses(draw, 3), text, "accents", unit="byte")
    yield measured(losses(draw, 3), text, "accents, per character", unit="character")
    text = "€" + drawn_text(draw, LETTERS, 2) + "🙂"
    yield measured(losses(draw, 4), text, "an emoji", unit="byte")
    yield measured(losses(draw, 4), text, "an emoji, per character", unit="character")


@exercise.property("spaces and ends of lines are a part of the text")
def white_space(draw: Draw):
    a, b = drawn_text(draw, LETTERS, 4), drawn_text(draw, LETTERS, draw.integer(3, 6))
    yield measured(losses(draw, 3), f"{a} {b}", "a space")
    yield measured(losses(draw, 5), f" {a}  {b}\n\n", "blanks at both ends")
    yield measured(losses(draw, 4), f"{a}\n{b}\n", "line ends, per character", unit="character")


@exercise.wrong(
    "counts characters where bytes are asked for",
    hint="`len` of a str counts characters. An é has two bytes in UTF-8, an emoji four; which method "
    "of a str shows them?",
    see="perplexity#bits-per-byte",
)
def characters_for_bytes(losses, text, unit="byte"):
    return losses.double().sum().item() / math.log(2) / len(text)


@exercise.wrong(
    "counts bytes where characters are asked for",
    hint="Where in your code does the argument `unit` appear?",
    see="perplexity#bits-per-byte",
)
def always_bytes(losses, text, unit="byte"):
    return losses.double().sum().item() / math.log(2) / len(text.encode())


@exercise.wrong(
    "takes bytes for characters and characters for bytes",
    hint="Try a text with accents: per byte there should be fewer bits than per character. Which of "
    "your two numbers is smaller?",
    see="perplexity#bits-per-byte",
)
def units_swapped(losses, text, unit="byte"):
    n = len(text) if unit == "byte" else len(text.encode())
    return losses.double().sum().item() / math.log(2) / n


@exercise.wrong(
    "divides by the number of tokens",
    hint="Bits per token depend on how the text was cut: longer tokens make them larger. What is "
    "the same for every tokenizer?",
    see="perplexity#tokenizers-do-not-compare",
)
def per_token(losses, text, unit="byte"):
    return losses.double().mean().item() / math.log(2)


@exercise.wrong(
    "takes the mean loss for that of the whole text",
    hint="You divide twice: once by the tokens, once by the units. Which number is to be shared "
    "among the bytes?",
    see="perplexity#bits-per-byte",
)
def mean_then_divided(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().mean().item() / math.log(2) / n


@exercise.wrong(
    "stays in nats",
    hint="A fair coin has 1 bit, which is ln 2 nats. Which conversion is missing?",
    see="perplexity#nats-and-bits",
)
def in_nats(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum().item() / n


@exercise.wrong(
    "multiplies by ln 2 instead of dividing",
    hint="A bit is less than a nat, so there must be more bits than nats. Which number of yours is "
    "larger?",
    see="perplexity#nats-and-bits",
)
def times_ln_two(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum().item() * math.log(2) / n


@exercise.wrong(
    "converts to decimal digits instead of bits",
    hint="A bit is a choice between two things. Which logarithm belongs below the fraction?",
    see="perplexity#nats-and-bits",
)
def decimal_digits(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum().item() / math.log(10) / n


@exercise.wrong(
    "returns a perplexity per unit",
    hint="You raised something to a power. Bits per byte are additive, like the losses; no "
    "exponential is needed.",
    see="perplexity#bits-per-byte",
)
def exponential(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return math.exp(losses.double().sum().item() / n)


@exercise.wrong(
    "leaves white space out of the count",
    hint="The model had to predict the spaces and the ends of lines too, and their losses are in the "
    "sum. Do your units hold them?",
    see="perplexity#bits-per-byte",
)
def without_blanks(losses, text, unit="byte"):
    text = "".join(text.split())
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum().item() / math.log(2) / n


@exercise.wrong(
    "strips the ends of the text",
    hint="Blanks at the beginning and at the end are a part of what was predicted. What does `strip` "
    "take away?",
    see="perplexity#bits-per-byte",
)
def stripped(losses, text, unit="byte"):
    text = text.strip()
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum().item() / math.log(2) / n


@exercise.wrong(
    "counts the bytes of another encoding",
    hint="In your encoding a plain letter has two bytes. The exercise counts UTF-8, where it has "
    "one.",
    see="perplexity#bits-per-byte",
)
def utf16(losses, text, unit="byte"):
    n = len(text.encode("utf-16-le")) if unit == "byte" else len(text)
    return losses.double().sum().item() / math.log(2) / n


@exercise.wrong(
    "drops the characters that are not ASCII",
    hint="Encoding with `ignore` makes letters disappear whose losses are still in the sum. Which "
    "encoding has bytes for every character?",
    see="perplexity#bits-per-byte",
)
def ascii_only(losses, text, unit="byte"):
    n = len(text.encode("ascii", "ignore")) if unit == "byte" else len(text)
    return losses.double().sum().item() / math.log(2) / n


@exercise.wrong(
    "counts words",
    hint="The unit is a byte or a character. What does `split` give you?",
    see="perplexity#bits-per-byte",
)
def per_word(losses, text, unit="byte"):
    return losses.double().sum().item() / math.log(2) / len(text.split())


@exercise.wrong(
    "returns a tensor instead of a number",
    hint="The value is right. The exercise asks for a Python number; which method of a tensor with "
    "one element gives it?",
    see="perplexity#bits-per-byte",
)
def tensor(losses, text, unit="byte"):
    n = len(text.encode()) if unit == "byte" else len(text)
    return losses.double().sum() / math.log(2) / n


@exercise.right("the sum, converted and shared")
def shared(losses, text, unit="byte"):
    units = len(text.encode("utf-8")) if unit == "byte" else len(text)
    return losses.sum().item() / (units * math.log(2))


@exercise.right("every loss in bits first")
def bits_first(losses, text, unit="byte"):
    bits = losses.double() * math.log2(math.e)
    pieces = text.encode() if unit == "byte" else text
    return float(bits.sum() / len(pieces))


@exercise.right("the mean loss times the tokens per unit")
def through_the_mean(losses, text, unit="byte"):
    counted = {"byte": len(bytes(text, "utf8")), "character": len(text)}
    tokens_per_unit = losses.numel() / counted[unit]
    return (losses.mean() / torch.log(torch.tensor(2.0))).item() * tokens_per_unit
