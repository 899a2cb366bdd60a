"""Exercise: texts of different lengths as inputs and shifted targets, padding left out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref.data import IGNORE, pad_batch
from llmr_ref.grading.exercise import Case, Draw, Exercise


def padded_batch(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    tokens, _, mask = pad_batch(sequences, pad_id)
    return tokens[:, :-1], tokens[:, 1:].masked_fill(~mask[:, 1:], IGNORE)


exercise = Exercise(
    "padded_batch",
    points=3,
    difficulty=2,
    minutes=15,
    reference=padded_batch,
    chapter="training-a-language-model#shifted-targets",
)


def texts(draw: Draw, *lengths: int, low: int = 1, high: int = 9) -> list[list[int]]:
    return [draw.integers(low, high, n).tolist() for n in lengths]


@exercise.property("the target of a token is the token after it", weight=2)
def shifted(draw: Draw):
    yield Case(([[3, 1, 4]], 0), note="one text")
    yield Case((texts(draw, 6), 0), note="one text")
    yield Case((texts(draw, 4, 4, 4), 0), note="texts of one length")
    yield Case((texts(draw, draw.integer(5, 8)), 0), note="one text")


@exercise.property("shorter texts are filled up, and padding is no target", weight=2)
def filled_up(draw: Draw):
    yield Case(([[1, 2, 3], [4, 5]], 0), note="texts of 3 and 2 tokens")
    yield Case((texts(draw, 2, 6, 4), 0), note="texts of 2, 6 and 4 tokens")
    yield Case((texts(draw, 5, 3, 2, 7), 11), note="pad_id=11")
    yield Case((texts(draw, 3, draw.integer(6, 9)), 10), note="a large pad_id")


@exercise.property("a token that is the same as the padding is a target where it is real", weight=1)
def same_as_padding(draw: Draw):
    yield Case(([[5, 0, 2, 0], [3, 0]], 0), note="texts that end in token 0, and pad_id=0")
    yield Case((texts(draw, 8, 5, high=3), 2), note="pad_id=2, which is also a token")


@exercise.property("texts of one token or none have a row without targets")
def short(draw: Draw):
    yield Case(([[4], [7, 2]], 0), note="a text of one token")
    yield Case((texts(draw, 3, 1, 4), 9), note="a text of one token")
    yield Case(([[], *texts(draw, 3)], 0), note="a text without tokens")
    yield Case(([[6]], 0), note="one token and nothing to predict")


@exercise.wrong(
    "takes the inputs themselves as the targets",
    hint="The model sees token t and is asked for token t. It learns to copy. Which token should it"
    " predict at place t?",
    see="training-a-language-model#shifted-targets",
)
def not_shifted(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-1], rows[:, :-1].masked_fill(~real[:, :-1], -100)


@exercise.wrong(
    "shifts the targets in the wrong direction",
    hint="At place t your target is the token before it, which the model has already seen. Write the"
    " two rows for one short text under each other.",
    see="training-a-language-model#shifted-targets",
)
def backwards(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, 1:], rows[:, :-1].masked_fill(~real[:, :-1], -100)


@exercise.wrong(
    "shifts by two tokens",
    hint="Follow one text of three tokens by hand. How many tokens lie between your input and your"
    " target?",
    see="training-a-language-model#shifted-targets",
)
def by_two(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-2], rows[:, 2:].masked_fill(~real[:, 2:], -100)


@exercise.wrong(
    "rolls the row round, so that the first token is the last target",
    hint="torch.roll brings the first token back at the end. What follows the last token of a text"
    " is not known.",
    see="training-a-language-model#shifted-targets",
)
def rolled(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows, rows.roll(-1, dims=1).masked_fill(~real, -100)


@exercise.wrong(
    "counts padding as a target",
    hint="A model that is paid for predicting padding learns to predict padding. Which number tells"
    " the loss to leave a target out?",
    see="training-a-language-model#padding",
)
def padding_counts(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    return rows[:, :-1], rows[:, 1:]


@exercise.wrong(
    "finds the padding by its id, and loses real tokens of that id",
    hint="A tokenizer may use its end token as padding. Then the id does not tell which places are"
    " filled up; what does?",
    see="training-a-language-model#padding",
)
def by_id(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    return rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)


@exercise.wrong(
    "ignores one target too few in every short text",
    hint="The last real token is an input whose target is padding. Count the targets of a text of two"
    " tokens.",
    see="training-a-language-model#padding",
)
def mask_not_shifted(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-1], rows[:, 1:].masked_fill(~real[:, :-1], -100)


@exercise.wrong(
    "cuts every text to the shortest",
    hint="A batch holds every token of every text. What happened to the tokens that the shortest text"
    " does not have?",
    see="training-a-language-model#padding",
)
def cut(sequences, pad_id):
    shortest = min(len(s) for s in sequences)
    rows = torch.tensor([s[:shortest] for s in sequences], dtype=torch.int64)
    return rows[:, :-1], rows[:, 1:]


@exercise.wrong(
    "fills up on the left",
    hint="Your texts end in one column. The exercise puts the padding behind the text, so that every"
    " text begins in the first column.",
    see="training-a-language-model#padding",
)
def on_the_left(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([[pad_id] * (longest - len(s)) + s for s in sequences])
    real = torch.tensor([[t >= longest - len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-1], rows[:, 1:].masked_fill(~real[:, 1:], -100)


@exercise.wrong(
    "writes -100 into the inputs as well",
    hint="The embedding has no row -100. The inputs hold ids that exist; only the targets are marked.",
    see="training-a-language-model#padding",
)
def in_both(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [-100] * (longest - len(s)) for s in sequences])
    return rows[:, :-1], rows[:, 1:]


@exercise.wrong(
    "fills up with 0, whatever pad_id is",
    hint="Which id stands at the padded places of your inputs? It is an argument.",
    see="training-a-language-model#padding",
)
def always_zero(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-1], rows[:, 1:].masked_fill(~real[:, 1:], -100)


@exercise.right("one table of rows, one of what is real")
def tables(sequences, pad_id):
    longest = max(len(s) for s in sequences)
    rows = torch.tensor([s + [pad_id] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[t < len(s) for t in range(longest)] for s in sequences])
    return rows[:, :-1], rows[:, 1:].masked_fill(~real[:, 1:], -100)


@exercise.right("row by row into full tensors")
def row_by_row(sequences, pad_id):
    T = max(map(len, sequences)) - 1
    inputs = torch.full((len(sequences), T), pad_id)
    targets = torch.full((len(sequences), T), -100)
    for i, s in enumerate(sequences):
        n = min(len(s), T)
        inputs[i, :n] = torch.tensor(s[:n], dtype=torch.int64)
        if len(s) > 1:
            targets[i, : len(s) - 1] = torch.tensor(s[1:])
    return inputs, targets


@exercise.right("two lists, each filled up with its own number")
def two_lists(sequences, pad_id):
    T = max(map(len, sequences))
    inputs = [F.pad(torch.tensor(s).long(), (0, T - len(s)), value=pad_id) for s in sequences]
    targets = [F.pad(torch.tensor(s).long(), (0, T - len(s)), value=-100) for s in sequences]
    return torch.stack(inputs)[:, :-1], torch.stack(targets)[:, 1:]
