"""Exercise: ids as text again, whatever bytes they stand for."""

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.split_words import drawn_words


def bpe_decode(ids: list[int], vocab: dict[int, bytes]) -> str:
    """The tokens' bytes, joined and read as UTF-8; what is none becomes U+FFFD."""
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace")


exercise = Exercise(
    "bpe_decode",
    points=2,
    difficulty=2,
    minutes=10,
    reference=bpe_decode,
    chapter="tokenization#decoding",
)


def spelled(draw: Draw, tokens: list[bytes]) -> tuple[list[int], dict[int, bytes]]:
    """Ids of these tokens, and a vocabulary that gives each an id of its own."""
    different = list(dict.fromkeys(tokens))
    first = draw.integer(0, 40)
    order = draw.permutation(len(different)).tolist()
    id_of = {different[place]: first + 3 * i for i, place in enumerate(order)}
    vocab = {i: token for token, i in sorted(id_of.items(), key=lambda entry: entry[1])}
    return [id_of[token] for token in tokens], vocab


@exercise.property("the tokens' bytes are joined, in the order of the ids", weight=2)
def joined(draw: Draw):
    a, b = drawn_words(draw, "abcdefgh", 2, 2)
    yield Case(spelled(draw, [b"th", b"e", b" ", b"play"]), note="four tokens")
    tokens = [f"x{a}".encode(), b" ", f"y{b}".encode(), b" ", f"x{a}".encode(), b"\n"]
    yield Case(spelled(draw, tokens), note="tokens that come again")
    yield Case(spelled(draw, [b" ", b" to", b"\n"]), note="white space at the ends")
    yield Case(([], {0: b"a"}), note="no id")


@exercise.property("a character may be spread over several tokens", weight=1.5)
def cut_characters(draw: Draw):
    letter = "éüøñßλ"[draw.integer(0, 5)].encode()
    yield Case(
        spelled(draw, [b"n", letter[:1], letter[1:], b"!"]), note="a character in two tokens"
    )
    smile = "🙂".encode()
    yield Case(
        spelled(draw, [b"a" + smile[:2], smile[2:3], smile[3:] + b"b"]), note="an emoji in three"
    )
    yield Case(spelled(draw, [letter, b"t", letter + b"s"]), note="characters of two bytes")


@exercise.property("bytes that are no UTF-8 become U+FFFD")
def no_utf8(draw: Draw):
    byte = bytes([draw.integer(0x80, 0xBF)])
    yield Case(spelled(draw, [b"a", byte, b"b"]), note="a byte that continues nothing")
    yield Case(spelled(draw, [b"caf", b"\xc3"]), note="half a character at the end")
    yield Case(spelled(draw, [b"\xff", b"ok", b"\xc3", b"("]), note="bytes that UTF-8 never has")


@exercise.wrong(
    "reads every token as text by itself",
    hint="Half a character is no text; two halves are. Which comes first, joining or reading?",
    see="tokenization#decoding",
)
def token_by_token(ids, vocab):
    return "".join(vocab[i].decode("utf-8", errors="replace") for i in ids)


@exercise.wrong(
    "fails on bytes that are no UTF-8",
    hint="A model can produce any ids in any order, so the bytes can be anything. What can `decode` "
    "do besides raising?",
    see="tokenization#decoding",
)
def strict(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode("utf-8")


@exercise.wrong(
    "drops bytes that are no UTF-8",
    hint="Whoever reads the text should see that something was there. Which character stands for "
    "what cannot be read?",
    see="tokenization#decoding",
)
def ignores(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="ignore")


@exercise.wrong(
    "reads every byte as a character",
    hint="Your é comes out as two strange letters. In which encoding were the bytes written?",
    see="tokenization#decoding",
)
def latin(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode("latin-1")


@exercise.wrong(
    "puts a space between tokens",
    hint="White space is in the tokens already. What stands between two tokens of one word?",
    see="tokenization#reversible",
)
def spaced(ids, vocab):
    return b" ".join(vocab[i] for i in ids).decode("utf-8", errors="replace")


@exercise.wrong(
    "takes ids for the codes of characters",
    hint="Only the vocabulary says what an id stands for. Where in your code is it read?",
    see="tokenization#decoding",
)
def codes(ids, vocab):
    return "".join(chr(i) for i in ids)


@exercise.wrong(
    "returns bytes instead of text",
    hint="The bytes are right. Which method turns them into a str?",
    see="tokenization#decoding",
)
def as_bytes(ids, vocab):
    return b"".join(vocab[i] for i in ids)


@exercise.wrong(
    "returns how the bytes are printed",
    hint="`str` of bytes shows them with a b and quotation marks. Which method reads them?",
    see="tokenization#decoding",
)
def printed(ids, vocab):
    return str(b"".join(vocab[i] for i in ids))


@exercise.wrong(
    "shows bytes that are no UTF-8 as escapes",
    hint="The exercise asks for one character, U+FFFD, where bytes cannot be read. Which name has that "
    "way of handling errors?",
    see="tokenization#decoding",
)
def escaped(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="backslashreplace")


@exercise.wrong(
    "strips the ends of the text",
    hint="Blanks at the ends belong to the text. Which of your steps takes them away?",
    see="tokenization#reversible",
)
def stripped(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace").strip()


@exercise.wrong(
    "writes every token once",
    hint="Ids come again, as words do. Which of your steps forgets repetitions?",
    see="tokenization#decoding",
)
def once(ids, vocab):
    return b"".join(vocab[i] for i in dict.fromkeys(ids)).decode("utf-8", errors="replace")


@exercise.wrong(
    "takes ids for places in the list of tokens",
    hint="The vocabulary maps an id to its bytes. Ids may leave numbers out, and then the third token "
    "is not the one with id 2.",
    see="tokenization#decoding",
)
def places(ids, vocab):
    tokens = list(vocab.values())
    return b"".join(tokens[i % len(tokens)] for i in ids).decode("utf-8", errors="replace")


@exercise.wrong(
    "writes the tokens in the order of the vocabulary",
    hint="The order of the ids is that of the text. Which of the two does your loop run over?",
    see="tokenization#decoding",
)
def vocabulary_order(ids, vocab):
    return b"".join(vocab[i] for i in sorted(ids)).decode("utf-8", errors="replace")


@exercise.right("joined, then read")
def joined_then_read(ids, vocab):
    return b"".join(vocab[i] for i in ids).decode(errors="replace")


@exercise.right("an array of bytes that grows")
def growing(ids, vocab):
    data = bytearray()
    for i in ids:
        data += vocab[i]
    return str(data, "utf-8", "replace")


@exercise.right("the lookup mapped over the ids")
def mapped(ids, vocab):
    data = b"".join(map(vocab.__getitem__, ids))
    return data.decode("utf8", "replace")
