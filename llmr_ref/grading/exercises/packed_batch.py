"""Exercise: documents end to end in rows of one length, without a word across a border."""

import torch
from torch import Tensor

from llmr_ref.data import pack
from llmr_ref.grading.exercise import Case, Draw, Exercise


def packed_batch(documents: list[list[int]], length: int, eos: int) -> dict[str, Tensor]:
    return pack(documents, length, eos)._asdict()


exercise = Exercise(
    "packed_batch",
    points=5,
    difficulty=4,
    minutes=35,
    reference=packed_batch,
    chapter="training-a-language-model#packing",
)


def texts(draw: Draw, *lengths: int) -> list[list[int]]:
    return [draw.integers(1, 9, n).tolist() for n in lengths]


@exercise.property("every document ends in eos, and the stream is cut into rows", weight=2)
def rows(draw: Draw):
    yield Case(([[5, 6, 7, 8]], 2, 0), note="one document, two whole rows")
    yield Case((texts(draw, 9), 3, 0), note="one document, three whole rows")
    yield Case((texts(draw, 12), 12, 11), note="one document, one row, eos=11")


@exercise.property(
    "what is left of the last row is padding: eos, no target, document -1", weight=1.5
)
def last_row(draw: Draw):
    yield Case((texts(draw, 4), 3, 0), note="a row with two places left over")
    yield Case((texts(draw, draw.integer(2, 4)), 7, 10), note="a document shorter than a row")
    yield Case((texts(draw, 6), 4, 0), note="a row with two places left over")


@exercise.property("no target reaches into the next document", weight=1.5)
def borders(draw: Draw):
    yield Case(([[5, 6], [7]], 4, 0), note="documents of 2 tokens and 1")
    yield Case((texts(draw, 3, 4, 2), 11, 0), note="three documents in one row")
    yield Case((texts(draw, 2, 1, 3, 2), 4, 12), note="four documents")


@exercise.property("positions begin at 0 in every document and in every row", weight=1.5)
def positions(draw: Draw):
    yield Case((texts(draw, 2, 6), 4, 0), note="a document over two rows")
    yield Case((texts(draw, 1, draw.integer(8, 11), 2), 5, 0), note="a document over three rows")
    yield Case((texts(draw, 3, 3, 3), 4, 0), note="documents as long as a row")


@exercise.property("empty documents and eos inside a document change nothing else")
def special(draw: Draw):
    yield Case(([[4], [], [3, 2]], 3, 0), note="an empty document")
    yield Case(([[1, 0, 2], [0, 3]], 4, 0), note="eos inside a document")
    yield Case(([*texts(draw, 3), [], [], *texts(draw, 2)], 5, 9), note="two empty documents")


@exercise.wrong(
    "predicts the first token of the next document",
    hint="The end of one text says nothing of the beginning of the next. Which target has the eos"
    " of a document?",
    see="training-a-language-model#packing",
)
def crosses_borders(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1])
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "writes the documents without an end",
    hint="A model that never sees an end never stops. What stands behind the last token of every"
    " document?",
    see="training-a-language-model#packing",
)
def no_eos(documents, length, eos):
    stream = [token for document in documents for token in document]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document))]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "does not learn to predict eos",
    hint="The target of the last token of a document is eos; it is how the model learns to stop.",
    see="training-a-language-model#packing",
)
def eos_not_learned(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(
            stream[t + 1]
            if same and owner[min(t + 2, len(owner) - 1)] == owner[t] and t + 2 < len(owner)
            else -100
        )
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "finds the borders by looking for eos",
    hint="A token like eos may stand inside a document. Which document a place belongs to, you"
    " know from the list.",
    see="training-a-language-model#packing",
)
def by_eos(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = stream[t] != eos
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "lets positions run on across documents",
    hint="Each document should look as it does when it stands alone. What is the position of its"
    " first token?",
    see="training-a-language-model#packing",
)
def positions_go_on(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = False
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "lets positions run on across rows",
    hint="A row is a sequence of its own; attention does not see the row before. At which position"
    " does it begin?",
    see="training-a-language-model#packing",
)
def positions_over_rows(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "drops what does not fill a row",
    hint="The last tokens of the stream were thrown away. Fill the row up instead.",
    see="training-a-language-model#packing",
)
def last_lost(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    n = len(inputs) // length * length
    inputs, targets, ids, positions = inputs[:n], targets[:n], ids[:n], positions[:n]
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "makes eos the target of the padding",
    hint="Nothing follows the end of the stream. Which target does the loss leave out?",
    see="training-a-language-model#packing",
)
def padding_is_learned(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(eos)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "counts the padding as a part of the last document",
    hint="With the last document's number the padding may be attended to. The exercise gives it a"
    " number of its own.",
    see="training-a-language-model#packing",
)
def padding_of_last(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        inputs.append(eos)
        targets.append(-100)
        ids.append(ids[-1])
        positions.append(positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "fills up with token 0, whatever eos is",
    hint="Token 0 may be a word. Which id does the exercise name for the padding of the inputs?",
    see="training-a-language-model#packing",
)
def pads_with_0(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(0)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "has no target at the end of every row",
    hint="The target of the last place of a row is the first token of the next row, if it is the"
    " same document. Cut inputs and targets from the stream before you make rows.",
    see="training-a-language-model#packing",
)
def row_loses_target(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same and (t + 1) % length else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "takes the inputs as the targets",
    hint="The target of a place is the token after it. Yours is the token at it.",
    see="training-a-language-model#packing",
)
def not_shifted(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.wrong(
    "leaves empty documents out",
    hint="An empty document still has an end, and it counts when documents are numbered.",
    see="training-a-language-model#packing",
)
def empty_skipped(documents, length, eos):
    documents = [document for document in documents if document]
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids = [], [], []
    positions: list[int] = []
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        positions.append(0 if begins else positions[-1] + 1)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        positions.append(0 if begins else positions[-1] + 1)
    names = ["inputs", "targets", "document_ids", "positions"]
    columns = [inputs, targets, ids, positions]
    return {n: torch.tensor(c).view(-1, length) for n, c in zip(names, columns, strict=True)}


@exercise.right("place by place")
def place_by_place(documents, length, eos):
    stream = [token for document in documents for token in [*document, eos]]
    owner = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    inputs, targets, ids, positions = [], [], [], []
    at = 0
    for t in range(len(stream) - 1):
        same = owner[t] == owner[t + 1]
        begins = t % length == 0 or owner[t] != owner[t - 1]
        inputs.append(stream[t])
        targets.append(stream[t + 1] if same else -100)
        ids.append(owner[t])
        at = 0 if begins else at + 1
        positions.append(at)
    while len(inputs) % length:
        begins = ids[-1] != -1
        inputs.append(eos)
        targets.append(-100)
        ids.append(-1)
        at = 0 if begins else at + 1
        positions.append(at)
    rows = {"inputs": inputs, "targets": targets, "document_ids": ids, "positions": positions}
    return {name: torch.tensor(row).view(-1, length) for name, row in rows.items()}


@exercise.right("tensors of the stream, padded and viewed as rows")
def as_tensors(documents, length, eos):
    ended = [torch.tensor([*d, eos]) for d in documents]
    stream = torch.cat(ended)
    ids = torch.cat([torch.full_like(d, i) for i, d in enumerate(ended)])
    targets = torch.where(ids[1:] == ids[:-1], stream[1:], -100)
    room = -(len(stream) - 1) % length
    fill = torch.ones(room, dtype=torch.int64)
    inputs = torch.cat([stream[:-1], eos * fill]).view(-1, length)
    targets = torch.cat([targets, -100 * fill]).view(-1, length)
    ids = torch.cat([ids[:-1], -fill]).view(-1, length)
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    at = torch.arange(length).expand_as(ids)
    positions = at - torch.where(begins, at, 0).cummax(1).values
    return {"inputs": inputs, "targets": targets, "document_ids": ids, "positions": positions}


@exercise.right("document by document into full tensors")
def into_full_tensors(documents, length, eos):
    n = sum(len(d) + 1 for d in documents)
    places = -(-(n - 1) // length) * length
    inputs = torch.full((places + 1,), eos)
    targets = torch.full((places + 1,), -100)
    ids = torch.full((places + 1,), -1)
    start = 0
    for i, document in enumerate(documents):
        end = start + len(document) + 1
        inputs[start:end] = torch.tensor([*document, eos])
        targets[start : end - 1] = inputs[start + 1 : end].clone()
        ids[start:end] = i
        start = end
    ids[n - 1] = -1
    inputs, targets, ids = (x[:places].view(-1, length) for x in (inputs, targets, ids))
    positions = torch.zeros_like(ids)
    for t in range(1, length):
        positions[:, t] = torch.where(ids[:, t] == ids[:, t - 1], positions[:, t - 1] + 1, 0)
    return {"inputs": inputs, "targets": targets, "document_ids": ids, "positions": positions}


exercise.equivalent(
    "at = 0 -> pass",
    "at = 0 -> at = 1",
    "at = 0 -> at = -1",
    because="the first place begins a row, so what stood in `at` before is not read",
)
