"""Exercise: the merges and the vocabulary of byte-pair encoding, learnt from a text."""

# mypy: disable-error-code="var-annotated, arg-type"
# ruff: noqa: RUF007 - students know zip
from llmr_ref import bpe_training
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.count_pairs import Pair
from llmr_ref.grading.exercises.split_words import drawn_words
from llmr_ref.pretokenization import PLAIN_PATTERN


def train_bpe(text: str, vocab_size: int) -> tuple[dict[int, bytes], list[Pair]]:
    """id -> bytes, first the 256 bytes, then the merges in order; and the merges themselves."""
    return bpe_training.train_bpe(text, vocab_size, pattern=PLAIN_PATTERN)


exercise = Exercise(
    "train_bpe",
    points=5,
    difficulty=4,
    minutes=35,
    reference=train_bpe,
    chapter="tokenization#training",
)


@exercise.driver
def learnt(train_bpe, text, vocab_size):
    vocab, merges = train_bpe(text, vocab_size)
    single = {i: bytes([i]) for i in range(256)}
    new = {i: token for i, token in vocab.items() if single.get(i) != token}
    in_place = sum(vocab.get(i) == token for i, token in single.items())
    return {"merges": merges, "single bytes in the vocabulary": in_place, "the rest of it": new}


@exercise.property("again and again, the most frequent pair becomes a token", weight=2)
def merges(draw: Draw):
    yield Case(("low low low lower newest newest", 259), note="three merges")
    yield Case((" ".join(drawn_words(draw, "abcd", 6, 20)), 262), note="six merges")
    yield Case(("hehehe hehe ha " * draw.integer(2, 3), 260), note="a pair that repeats in a word")
    yield Case((" ".join(drawn_words(draw, "abc", 9, 40)), 271), note="fifteen merges")


@exercise.property(
    "words count as often as they occur, and no token reaches across them", weight=1.5
)
def words(draw: Draw):
    n = draw.integer(4, 8)
    yield Case(("no " * n + "ab ac ad", 258), note="a word that comes often")
    yield Case(("a b " * n + "cd cd", 257), note="neighbours with a space between them")
    yield Case(("\n\nab\n\ncd\n\n" * 2, 258), note="line ends")


@exercise.property("of several most frequent pairs the greatest is merged", weight=1.5)
def ties(draw: Draw):
    a, b, c = (drawn_words(draw, letters, 1, 1)[0] for letters in ("ae", "bf", "cg"))
    yield Case(("ab cd ef", 257), note="three pairs of one count")
    yield Case((f"x{a} y{b} z{c} z{a}", 260), note="many pairs of one count")


@exercise.property("the vocabulary is 256 bytes and then the merges, as many as asked for")
def vocabulary(draw: Draw):
    word = "e" + drawn_words(draw, "nt", 1, 1)[0]
    yield Case((word, 256), note="no merge")
    yield Case((f"{word} {word}", 300), note="a text that runs out of pairs")
    yield Case(("né né à là", 258), note="characters of two bytes")
    yield Case(("", 260), note="an empty text")


@exercise.wrong(
    "counts pairs across words",
    hint="No token may reach from a word into the white space after it. What do you split the text "
    "into before you count?",
    see="tokenization#words-first",
)
def no_words(text, vocab_size):
    from collections import Counter

    words = {tuple(bytes([b]) for b in text.encode()): 1}
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "throws the white space away before it counts",
    hint="White space makes words too: two line ends in a row are worth a token. Do your words, "
    "joined, give the text?",
    see="tokenization#words-first",
)
def drops_blanks(text, vocab_size):
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in text.split())
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "counts every different word once",
    hint="A word that stands in the text a thousand times should count a thousand times. Which of "
    "your steps forgets how often?",
    see="tokenization#counting-pairs",
)
def ignores_times(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "leaves a tie to the order in which pairs were counted",
    hint="Two answers that count in another order would learn other merges. Which pair of several "
    "is asked for?",
    see="tokenization#ties",
)
def first_of_a_tie(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=counts.get)
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "takes the smallest pair of a tie",
    hint="Which of several most frequent pairs does the exercise ask for?",
    see="tokenization#ties",
)
def smallest_of_a_tie(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "makes as many merges as the vocabulary should have tokens",
    hint="The 256 bytes are tokens from the start. How many merges are left for a vocabulary of "
    "300?",
    see="tokenization#training",
)
def merges_for_tokens(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(merges) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "makes one merge too few",
    hint="Count the tokens of your vocabulary when the loop ends, and compare with what was asked "
    "for.",
    see="tokenization#training",
)
def one_too_few(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size - 1:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "counts the pairs once and merges the most frequent ones in turn",
    hint="A merge makes new neighbours and takes others away. When do the counts have to be made "
    "again?",
    see="tokenization#training",
)
def never_recounts(text, vocab_size):
    import re
    from collections import Counter

    counts = Counter()
    for w in re.findall(r"\S+|\s+", text):
        word = [bytes([b]) for b in w.encode()]
        counts.update(zip(word, word[1:], strict=False))
    ranked = sorted(counts, key=lambda pair: (counts[pair], pair), reverse=True)
    merges = ranked[: vocab_size - 256]
    tokens = [*(bytes([i]) for i in range(256)), *(a + b for a, b in merges)]
    return dict(enumerate(tokens)), merges


@exercise.wrong(
    "fails when every word has become one token",
    hint="A short text runs out of pairs before the vocabulary is full. What does your choice of a "
    "pair do with nothing to choose from?",
    see="tokenization#training",
)
def never_stops(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "starts from characters instead of bytes",
    hint="With characters the vocabulary has no end: every script adds its own. Which 256 tokens "
    "can write any text?",
    see="tokenization#general",
)
def characters(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(c.encode() for c in w) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "joins a pair only where it stands first in a word",
    hint="The pair can stand in a word more than once. Does your merge go on after the first?",
    see="tokenization#merging",
)
def first_in_the_word(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best and b"".join(best) not in merged:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.wrong(
    "maps tokens to ids instead of ids to tokens",
    hint="Decoding looks up the bytes of an id. Which way round does your vocabulary go?",
    see="tokenization#training",
)
def vocab_reversed(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return {token: i for i, token in vocab.items()}, merges


@exercise.wrong(
    "writes merges as pairs of ids",
    hint="The merges are pairs of tokens, as bytes; ids are found in the vocabulary. What is in "
    "your tuples?",
    see="tokenization#training",
)
def ids_for_tokens(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    ids = {token: i for i, token in vocab.items()}
    return vocab, [(ids[a], ids[b]) for a, b in merges]


@exercise.wrong(
    "leaves the 256 bytes out of the vocabulary",
    hint="A byte that no merge uses still has to be written. Which ids do the first tokens have?",
    see="tokenization#general",
)
def merges_alone(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return {i: token for i, token in vocab.items() if i >= 256}, merges


@exercise.right("a counter of words, all pairs counted in every round")
def all_over_again(text, vocab_size):
    import re
    from collections import Counter

    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(r"\S+|\s+", text))
    vocab = {i: bytes([i]) for i in range(256)}
    merges = []
    while len(vocab) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += times
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocab[len(vocab)] = best[0] + best[1]
        merged_words = Counter()
        for word, times in words.items():
            merged = []
            for token in word:
                if merged and (merged[-1], token) == best:
                    merged[-1] += token
                else:
                    merged.append(token)
            merged_words[tuple(merged)] += times
        words = merged_words
    return vocab, merges


@exercise.right("words as lists of ids, the tie decided by their bytes")
def with_ids(text, vocab_size):
    import re

    vocab = {i: bytes([i]) for i in range(256)}
    words = [list(word.encode()) for word in re.findall(r"\S+|\s+", text)]
    merges = []
    for new in range(256, vocab_size):
        counts = {}
        for word in words:
            for i in range(len(word) - 1):
                pair = word[i], word[i + 1]
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        most = max(counts.values())
        tied = [pair for pair in counts if counts[pair] == most]
        a, b = max(tied, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        vocab[new] = vocab[a] + vocab[b]
        merges.append((vocab[a], vocab[b]))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if word[i] == a and word[i + 1] == b:
                    word[i : i + 2] = [new]
                i += 1
    return vocab, merges


@exercise.right("three steps, each a function")
def in_steps(text, vocab_size):
    from collections import Counter
    from itertools import groupby, pairwise

    def count(words):
        counts = Counter()
        for word, times in words:
            for pair in pairwise(word):
                counts[pair] += times
        return counts

    def merge(word, a, b):
        out = []
        for token in word:
            if out and out[-1] == a and token == b:
                out[-1] = a + b
            else:
                out.append(token)
        return out

    groups = Counter("".join(group) for _, group in groupby(text, str.isspace))
    words = [([bytes([x]) for x in word.encode()], times) for word, times in groups.items()]
    merges = []
    while len(merges) < vocab_size - 256 and (counts := count(words)):
        _, (a, b) = max((times, pair) for pair, times in counts.items())
        merges.append((a, b))
        words = [(merge(word, a, b), times) for word, times in words]
    tokens = [bytes([i]) for i in range(256)] + [a + b for a, b in merges]
    return {i: token for i, token in enumerate(tokens)}, merges
