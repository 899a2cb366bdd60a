"""Exercise: how often every token follows every context of n - 1 tokens."""

# mypy: disable-error-code="var-annotated"
from llmr_ref.grading.exercise import Case, Draw, Exercise

PAD = -1  # stands in a context where the sequence has not begun; never a token

Sequences = list[list[int]]
Counts = dict[tuple[int, ...], dict[int, int]]


def count_ngrams(sequences: Sequences, n: int) -> Counts:
    """counts[context][token], contexts being tuples of n - 1 ids, padded at the beginning."""
    counts: Counts = {}
    for sequence in sequences:
        padded = [PAD] * (n - 1) + sequence
        for i, token in enumerate(sequence):
            followers = counts.setdefault(tuple(padded[i : i + n - 1]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


def drawn_sequence(draw: Draw, vocab_size: int, length: int) -> list[int]:
    """`length` ids, each as likely as the others."""
    ids: list[int] = draw.integers(0, vocab_size - 1, length).tolist()
    return ids


exercise = Exercise(
    "count_ngrams",
    points=3,
    difficulty=2,
    minutes=20,
    reference=count_ngrams,
    chapter="n-grams#counting",
)


@exercise.property("every token is counted under the n - 1 tokens before it", weight=2)
def counted(draw: Draw):
    yield Case(([[0, 1, 0, 1, 0]], 2), note="one short sequence and n = 2")
    yield Case(([drawn_sequence(draw, 3, 12)], 2), note="n = 2")
    yield Case(([drawn_sequence(draw, 3, 12)], 3), note="n = 3")
    yield Case(([drawn_sequence(draw, 2, draw.integer(20, 30))], 4), note="n = 4")


@exercise.property("the first tokens follow padding, which is never counted itself", weight=1.5)
def beginning(draw: Draw):
    yield Case(([[0, 0, 1]], 3), note="a sequence that begins with id 0")
    yield Case(([[draw.integer(0, 5)]], 3), note="a sequence of one token and n = 3")
    yield Case(([drawn_sequence(draw, 4, 2)], 5), note="a sequence shorter than n")


@exercise.property("for n = 1 the only context is empty")
def unigrams(draw: Draw):
    yield Case(([[2, 5, 2]], 1), note="n = 1")
    yield Case(([drawn_sequence(draw, 4, 10)], 1), note="n = 1")


@exercise.property("no n-gram reaches from one sequence into the next", weight=1.5)
def several(draw: Draw):
    yield Case(([[0, 1], [2]], 2), note="two sequences")
    yield Case(([drawn_sequence(draw, 3, n) for n in (6, 1, 9)], 3), note="three sequences")
    yield Case(([[1, 0], [], [1]], 2), note="an empty sequence among others")
    yield Case(([], 2), note="no sequence at all")


@exercise.wrong(
    "leaves out the tokens that have fewer than n - 1 before them",
    hint="Add up all your counts and compare with the number of tokens. Which ones are missing, and "
    "what does the exercise put before the beginning of a sequence?",
    see="n-grams#the-beginning-of-a-sequence",
)
def no_padding(sequences, n):
    counts = {}
    for sequence in sequences:
        for i in range(n - 1, len(sequence)):
            followers = counts.setdefault(tuple(sequence[i - n + 1 : i]), {})
            followers[sequence[i]] = followers.get(sequence[i], 0) + 1
    return counts


@exercise.wrong(
    "shortens the first contexts instead of padding them",
    hint="Look at the lengths of your keys. All contexts of one table have n - 1 entries; something "
    "stands for the places before the first token.",
    see="n-grams#the-beginning-of-a-sequence",
)
def short_contexts(sequences, n):
    counts = {}
    for sequence in sequences:
        for i, token in enumerate(sequence):
            followers = counts.setdefault(tuple(sequence[max(0, i - n + 1) : i]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "pads with one place whatever n is",
    hint="How many tokens are missing before the first one when n is 4? Compare the lengths of your "
    "keys.",
    see="n-grams#the-beginning-of-a-sequence",
)
def pads_once(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1, *sequence]
        for i, token in enumerate(sequence, start=1):
            followers = counts.setdefault(tuple(padded[max(0, i - n + 1) : i]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "pads with id 0, which is a token like any other",
    hint="Two different situations end up under one key: after a real token 0, and at the beginning. "
    "Which number can no token have?",
    see="n-grams#the-beginning-of-a-sequence",
)
def pads_with_zero(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [0] * (n - 1) + sequence
        for i, token in enumerate(sequence):
            followers = counts.setdefault(tuple(padded[i : i + n - 1]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "counts padding as a token that follows",
    hint="Padding gives the first token a context. Nobody ever has to predict it, so it must not "
    "turn up among the followers. How many places do you put in front?",
    see="n-grams#the-beginning-of-a-sequence",
)
def padding_follows(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * n + sequence
        for i in range(n - 1, len(padded)):
            followers = counts.setdefault(tuple(padded[i - n + 1 : i]), {})
            followers[padded[i]] = followers.get(padded[i], 0) + 1
    return counts


@exercise.wrong(
    "counts an end of the sequence that nobody asked for",
    hint="Your table has one n-gram too many per sequence. A sequence that has an end token carries "
    "it as its last id; the function adds nothing behind it.",
    see="n-grams#the-beginning-of-a-sequence",
)
def counts_an_end(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence + [-1]
        for i in range(n - 1, len(padded)):
            followers = counts.setdefault(tuple(padded[i - n + 1 : i]), {})
            followers[padded[i]] = followers.get(padded[i], 0) + 1
    return counts


@exercise.wrong(
    "takes n tokens as the context",
    hint="An n-gram is n tokens in all: its context and the token that follows. Count the entries of "
    "one of your keys.",
    see="n-grams#the-markov-property",
)
def context_of_n(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * n + sequence
        for i, token in enumerate(sequence):
            followers = counts.setdefault(tuple(padded[i : i + n]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "misses the last token of every sequence",
    hint="Where does your loop over positions end? Add up your counts and compare with the number "
    "of tokens.",
    see="n-grams#counting",
)
def misses_the_last(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        for i in range(len(sequence) - 1):
            followers = counts.setdefault(tuple(padded[i : i + n - 1]), {})
            followers[sequence[i]] = followers.get(sequence[i], 0) + 1
    return counts


@exercise.wrong(
    "runs all sequences together into one",
    hint="The last token of one sequence says nothing about the first of the next. What stands "
    "before the first token of the second sequence?",
    see="n-grams#the-beginning-of-a-sequence",
)
def runs_together(sequences, n):
    counts = {}
    tokens = [token for sequence in sequences for token in sequence]
    padded = [-1] * (n - 1) + tokens
    for i, token in enumerate(tokens):
        followers = counts.setdefault(tuple(padded[i : i + n - 1]), {})
        followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "notes that an n-gram occurs, not how often",
    hint="All your numbers are 1. What should happen when the same token follows the same context "
    "again?",
    see="n-grams#counting",
)
def only_ones(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        for i, token in enumerate(sequence):
            counts.setdefault(tuple(padded[i : i + n - 1]), {})[token] = 1
    return counts


@exercise.wrong(
    "writes contexts with the nearest token first",
    hint="A context reads as the text does: oldest token first, the nearest one last. With n = 2 you "
    "cannot see the difference; print a key for n = 3.",
    see="n-grams#the-markov-property",
)
def backwards(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        for i, token in enumerate(sequence):
            followers = counts.setdefault(tuple(padded[i : i + n - 1][::-1]), {})
            followers[token] = followers.get(token, 0) + 1
    return counts


@exercise.wrong(
    "takes the whole history as the context when n is 1",
    hint="A slice that begins at minus zero begins at zero. What is `history[-(n - 1):]` for n = 1, "
    "and what should the context of a unigram be?",
    see="n-grams#the-markov-property",
)
def minus_zero(sequences, n):
    counts = {}
    for sequence in sequences:
        history = [-1] * (n - 1)
        for token in sequence:
            followers = counts.setdefault(tuple(history[-(n - 1) :]), {})
            followers[token] = followers.get(token, 0) + 1
            history.append(token)
    return counts


@exercise.wrong(
    "uses the whole n-gram as a key",
    hint="You count n-grams, but later steps ask what follows one context. The table has two levels: "
    "first the context, then the token.",
    see="n-grams#counting",
)
def flat(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        for i in range(len(sequence)):
            gram = tuple(padded[i : i + n])
            counts[gram] = counts.get(gram, 0) + 1
    return counts


@exercise.wrong(
    "writes the padding into the caller's sequences",
    hint="Print your input after the call. Methods such as `insert` and assignments to a slice "
    "change the list that they are called on; build a new one.",
    see="n-grams#the-beginning-of-a-sequence",
)
def in_place(sequences, n):
    counts = {}
    for sequence in sequences:
        sequence[:0] = [-1] * (n - 1)
        for i in range(n - 1, len(sequence)):
            followers = counts.setdefault(tuple(sequence[i - n + 1 : i]), {})
            followers[sequence[i]] = followers.get(sequence[i], 0) + 1
    return counts


@exercise.right("a slice of the padded sequence for every token")
def slices(sequences, n):
    counts = {}
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        for end in range(n - 1, len(padded)):
            context, token = tuple(padded[end - n + 1 : end]), padded[end]
            if context not in counts:
                counts[context] = {}
            counts[context][token] = counts[context].get(token, 0) + 1
    return counts


@exercise.right("a dictionary of counters")
def counters(sequences, n):
    from collections import Counter, defaultdict

    counts = defaultdict(Counter)
    for sequence in sequences:
        context = (-1,) * (n - 1)
        for token in sequence:
            counts[context][token] += 1
            context = (*context, token)[1:]
    return counts


@exercise.right("n shifted copies of the sequence, zipped and counted")
def zipped(sequences, n):
    from collections import Counter

    grams = Counter()
    for sequence in sequences:
        padded = [-1] * (n - 1) + sequence
        grams.update(zip(*(padded[i:] for i in range(n)), strict=False))
    counts = {}
    for (*context, token), times in grams.items():
        counts.setdefault(tuple(context), {})[token] = times
    return counts


@exercise.right("a window that slides")
def window(sequences, n):
    from collections import deque

    counts = {}
    for sequence in sequences:
        recent = deque([-1] * (n - 1), maxlen=n - 1)
        for token in sequence:
            followers = counts.setdefault(tuple(recent), {})
            followers[token] = 1 + followers.get(token, 0)
            recent.append(token)
    return counts
