"""Exercise: a text as ids, by replaying the merges in the order in which they were learnt."""

# mypy: disable-error-code="var-annotated, arg-type"
# ruff: noqa: RUF007 - students know zip
from llmr_ref import tokenizer
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_pairs import Pair
from llmr_ref.grading.exercises.split_words import drawn_words
from llmr_ref.grading.exercises.train_bpe import train_bpe
from llmr_ref.pretokenization import PLAIN_PATTERN


def bpe_encode(text: str, merges: list[Pair]) -> list[int]:
    """Ids of the text's words, one after the other: a byte has its own, merge i has 256 + i."""
    tokens = [*(bytes([i]) for i in range(256)), *(a + b for a, b in merges)]
    vocab = dict(enumerate(tokens))
    return tokenizer.Tokenizer(vocab, merges, pattern=PLAIN_PATTERN).encode(text)


def learnt(text: str, n_merges: int) -> list[Pair]:
    """The first merges of a text; fewer where two would spell the same token."""
    _, merges = train_bpe(text, 256 + n_merges)
    spelled = [a + b for a, b in merges]
    twice = [i for i, token in enumerate(spelled) if token in spelled[:i]]
    return merges[: twice[0]] if twice else merges


exercise = Exercise(
    "bpe_encode",
    points=4,
    difficulty=3,
    minutes=25,
    reference=bpe_encode,
    chapter="tokenization#encoding",
)

HE = [(b"h", b"e"), (b"t", b"he"), (b" ", b"t")]


@exercise.property("of the pairs in a word, the one learnt first is joined first", weight=2)
def ranks(draw: Draw):
    yield Case(("the he", HE), note="two merges")
    yield Case(("abc", [(b"b", b"c"), (b"a", b"b")]), note="the second pair learnt first")
    yield Case(("abc", [(b"a", b"b"), (b"b", b"c")]), note="the first pair learnt first")
    spelled = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]
    yield Case(("abc ab", spelled), note="a longer token that no merge reaches")
    unreachable = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")]
    yield Case(("abc bc", unreachable), note="a token that is spelled and never made")
    yield Case(("abc ab", [*unreachable[:2], (b"ab", b"c")]), note="a merge of a merge")
    text = " ".join(drawn_words(draw, "abc", 8, 40))
    yield Case((" ".join(drawn_words(draw, "abc", 6, 12)), learnt(text, 12)), note="twelve merges")


@exercise.property("a pair is joined wherever it stands in the word")
def everywhere(draw: Draw):
    n = draw.integer(2, 4)
    yield Case(("ab" * n, [(b"a", b"b")]), note="a pair that comes again")
    yield Case(("a" * (2 * n + 1), [(b"a", b"a"), (b"aa", b"aa")]), note="an odd run of one letter")
    yield Case(("ab" * n + "c", [(b"a", b"b"), (b"ab", b"ab"), (b"ab", b"c")]))


@exercise.property("no token reaches across words, and white space is kept")
def words(draw: Draw):
    a, b = drawn_words(draw, "het", 2, 2)
    yield Case((f"{a} the {b} t", HE), note="a merge that holds a space")
    yield Case((f"the\n\n{a}  he ", [*HE, (b"\n", b"\n")]), note="white space of several bytes")


@exercise.property("any text can be encoded")
def any_text(draw: Draw):
    a = drawn_words(draw, "abé", 1, 1)[0]
    yield Case((f"é{a} ĉ", []), note="no merges")
    yield Case((f"éé{a} 🙂", [(b"\xc3", b"\xa9"), (b"\xa9", b"\xc3")]), note="accents and an emoji")
    yield Case(("", HE), note="an empty text")


@exercise.wrong(
    "joins the pair that stands first in the word, whatever its rank",
    hint="Training joined its first pair everywhere before it looked at the second. Which of the "
    "pairs in the word was learnt first?",
    see="tokenization#encoding",
)
def leftmost(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = pairs[0]
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "joins the pair that was learnt last",
    hint="A merge that was learnt late was counted on words in which the early ones were made "
    "already. Which rank goes first?",
    see="tokenization#encoding",
)
def latest(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = max(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "takes the longest token of the vocabulary that fits",
    hint="That is another algorithm. Byte-pair encoding replays the merges in the order in which "
    "they were learnt, and may end in shorter tokens.",
    see="tokenization#encoding",
)
def longest_match(text, merges):
    import re

    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        rest = word.encode()
        while rest:
            end = max(n for n in range(1, len(rest) + 1) if rest[:n] in id_of)
            ids.append(id_of[rest[:end]])
            rest = rest[end:]
    return ids


@exercise.wrong(
    "writes bytes and never merges",
    hint="One id per byte is right for an empty list of merges. Where do yours come in?",
    see="tokenization#encoding",
)
def bytes_alone(text, merges):
    return list(text.encode())


@exercise.wrong(
    "lets tokens reach across words",
    hint="A merge applies within a word. What do you split the text into first?",
    see="tokenization#words-first",
)
def no_words(text, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in [text]:
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "throws the white space away",
    hint="Decode what you return: the spaces are gone. White space makes words of its own.",
    see="tokenization#reversible",
)
def drops_blanks(text, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in text.split():
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "gives the first merge the id 257",
    hint="The 256 bytes have the ids 0 to 255. Which number is free first?",
    see="tokenization#encoding",
)
def ids_off_by_one(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 257 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "numbers the merges from 0",
    hint="Those ids belong to the bytes already. How many tokens come before the first merge?",
    see="tokenization#encoding",
)
def ids_from_zero(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "returns tokens instead of ids",
    hint="The tokens are right; a model wants numbers. Which id has a byte, and which one the "
    "result of a merge?",
    see="tokenization#encoding",
)
def tokens(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += tokens
    return ids


@exercise.wrong(
    "takes characters for bytes",
    hint="The code of a character can be larger than 255, and then it is the id of something else. "
    "What does `encode` give for an é?",
    see="tokenization#general",
)
def characters(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [character.encode() for character in word]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] if token in id_of else ord(token.decode()) for token in tokens]
    return ids


@exercise.wrong(
    "makes one merge per word and stops",
    hint="After a merge there are new neighbours. When is a word finished?",
    see="tokenization#encoding",
)
def one_merge(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
            break
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "joins a pair at its first place only and forgets it",
    hint="The same pair can stand in a word again. Does your loop look for it once more?",
    see="tokenization#merging",
)
def first_place(text, merges):
    import re

    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        for a, b in merges:
            for i in range(len(tokens) - 1):
                if (tokens[i], tokens[i + 1]) == (a, b):
                    tokens[i : i + 2] = [a + b]
                    break
        id_of = {bytes([i]): i for i in range(256)}
        id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.wrong(
    "replaces bytes wherever they spell a merge, tokens or not",
    hint="`ab` and `c` may spell a token, but if `a` was joined to something else there is no "
    "`ab`. Compare tokens, not the bytes below them.",
    see="tokenization#merging",
)
def by_spelling(text, merges):
    import re

    ids = []
    for word in re.findall(r"\S+|\s+", text):
        pieces = [word.encode()]
        for rank in range(len(merges) - 1, -1, -1):
            joined = merges[rank][0] + merges[rank][1]
            split = []
            for piece in pieces:
                if isinstance(piece, int):
                    split.append(piece)
                    continue
                for number, part in enumerate(piece.split(joined)):
                    split += [256 + rank, part] if number else [part]
            pieces = split
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else list(piece)
    return ids


@exercise.right("one merge after the other, in the order of the list")
def in_order(text, merges):
    import re

    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = list(word.encode())
        spelled = [bytes([token]) for token in tokens]
        for rank, pair in enumerate(merges):
            i = 0
            while i + 1 < len(tokens):
                if (spelled[i], spelled[i + 1]) == pair:
                    tokens[i : i + 2] = [256 + rank]
                    spelled[i : i + 2] = [pair[0] + pair[1]]
                i += 1
        ids += tokens
    return ids


@exercise.right("the pair of lowest rank, until there is none")
def lowest_rank(text, merges):
    import re

    ranks = {pair: rank for rank, pair in enumerate(merges)}
    id_of = {bytes([i]): i for i in range(256)}
    id_of |= {a + b: 256 + rank for rank, (a, b) in enumerate(merges)}
    ids = []
    for word in re.findall(r"\S+|\s+", text):
        tokens = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.get)
            merged = []
            for token in tokens:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        ids += [id_of[token] for token in tokens]
    return ids


@exercise.right("one place at a time, with words remembered")
def one_place(text, merges):
    from itertools import groupby

    tokens_of = [bytes([i]) for i in range(256)] + [a + b for a, b in merges]
    ids = {token: i for i, token in enumerate(tokens_of)}
    rank = {pair: i for i, pair in enumerate(merges)}
    known = {}

    def encode_word(word):
        tokens = [bytes([byte]) for byte in word.encode()]
        while len(tokens) > 1:
            best, i = min(
                (rank.get((tokens[i], tokens[i + 1]), 10**9), i) for i in range(len(tokens) - 1)
            )
            if best == 10**9:
                break
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        return [ids[token] for token in tokens]

    result = []
    for _, group in groupby(text, str.isspace):
        word = "".join(group)
        if word not in known:
            known[word] = encode_word(word)
        result.extend(known[word])
    return result
