"""Exercise: a training loop, graded on what the model has learned."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmr_ref.data import IGNORE, pad_batch
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.trainer import train
from llmr_ref.training import TrainingConfig


def train_model(
    model: nn.Module, documents: list[list[int]], pad_id: int, steps: int
) -> list[float]:
    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(documents), (32,), generator=generator).tolist()
        tokens, _, mask = pad_batch([documents[i] for i in drawn], pad_id)
        return tokens[:, :-1], tokens[:, 1:].masked_fill(~mask[:, 1:], IGNORE)

    losses: list[float] = []
    config = TrainingConfig(
        steps=steps, batch_size=32, max_lr=0.02, min_lr=0.0, warmup=min(10, steps), device="cpu"
    )
    train(model, batch, config, callbacks=[lambda record: losses.append(record.loss)])
    return losses


exercise = Exercise(
    "train_model",
    points=5,
    difficulty=4,
    minutes=45,
    reference=train_model,
    chapter="training-run#the-training-loop",
)


@exercise.driver
def learn(train_model, documents, contexts, vocab_size, steps, seed):
    """Train a small model; what it then predicts after the contexts, and a record of the training."""
    pad_id, window, d = vocab_size - 1, 8, 8

    class Model(torch.nn.Module):
        """A feed-forward language model: the last 8 tokens, one hidden layer, logits."""

        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocab_size + 1, d)
            self.hidden = torch.nn.Linear(window * d, 32)
            self.dropout = torch.nn.Dropout(0.05)
            self.output = torch.nn.Linear(32, vocab_size)
            torch.nn.init.zeros_(self.output.weight)
            torch.nn.init.zeros_(self.output.bias)
            self.seen = []

        def forward(self, ids):  # (B, T) -> (B, T, V)
            self.seen.append((ids.clone(), self.training))
            before = torch.full((len(ids), window - 1), vocab_size)
            x = torch.cat([before, ids], dim=1).unfold(1, window, 1)  # (B, T, window)
            x = self.embedding(x).flatten(2)
            return self.output(self.dropout(torch.relu(self.hidden(x))))

    torch.manual_seed(seed)
    model = Model().eval()
    losses = train_model(model, documents, pad_id, steps)
    seen = list(model.seen)
    model.eval()
    longest = max(map(len, contexts))
    rows = torch.tensor([c + [pad_id] * (longest - len(c)) for c in contexts])
    last = torch.tensor([len(c) - 1 for c in contexts])
    with torch.no_grad():
        logits = model(rows)[torch.arange(len(rows)), last]
    return {
        "log p": torch.log_softmax(logits, dim=-1),
        "losses": losses,
        "batch sizes": [len(ids) for ids, _ in seen],
        "in training mode": all(mode for _, mode in seen),
        "different rows": len({tuple(row) for ids, _ in seen for row in ids.tolist()}),
    }


# --- the corpus: an order that pairs of letters show, and a memory that no 5-gram has ---------------

TOPICS, LETTERS = 3, 6
V = TOPICS + LETTERS + 1  # the last id is the padding
CLOSES = {5: 1 / 3, 6: 1 / 2, 7: 1.0}  # after so many letters a document ends in its topic


class Source:
    """A topic, 5 to 7 letters of a Markov chain, and the topic again, which is more than 4 tokens back."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.chain = torch.zeros(LETTERS, LETTERS)
        for row in self.chain:
            row[draw.permutation(LETTERS)[:3]] = torch.tensor([0.6, 0.3, 0.1])

    def next(self, document: list[int]) -> Tensor:
        """The probabilities of all tokens after a beginning of a document, exactly."""
        letters = len(document) - 1
        p = torch.zeros(V)
        p[TOPICS : TOPICS + LETTERS] = (
            self.chain[document[-1] - TOPICS] if letters else torch.ones(LETTERS) / LETTERS
        )
        p *= 1 - CLOSES.get(letters, 0.0)
        p[document[0]] += CLOSES.get(letters, 0.0)
        return p

    def document(self) -> list[int]:
        document = [self.draw.integer(0, TOPICS - 1)]
        while len(document) < 2 or document[-1] >= TOPICS:
            p = self.next(document)
            document.append(int(torch.multinomial(p, 1, generator=self.draw.generator)))
        return document

    def excerpt(self) -> list[int]:
        """A document, one time in three only its beginning: where it is cut tells nothing."""
        document = self.document()
        if self.draw.integer(1, 3) == 1:
            del document[self.draw.integer(3, len(document)) :]
        return document


def n_gram(documents: list[list[int]], n: int, contexts: list[list[int]]) -> Tensor:
    """Witten-Bell's estimate of order n after every context, (contexts, V)."""
    tables = [defaultdict(Counter) for _ in range(n)]  # type: ignore[var-annotated]
    for document in documents:
        for m, counts in enumerate(tables):
            padded = [-1] * m + document
            for i in range(1, len(document)):
                counts[tuple(padded[i : i + m])][document[i]] += 1

    @functools.cache
    def estimate(context: tuple[int, ...]) -> Tensor:
        below = estimate(context[1:]) if context else torch.full((V,), 1 / V)
        followers: dict[int, int] = tables[len(context)].get(context, {})
        if not followers:
            return below
        c = torch.tensor([float(followers.get(w, 0)) for w in range(V)])
        return (c + len(followers) * below) / (c.sum() + len(followers))

    return torch.stack([estimate(tuple(([-1] * (n - 1) + c)[len(c) :])) for c in contexts])


def corpus(
    draw: Draw, steps: int, allowed: float | None
) -> tuple[tuple[Any, ...], Callable[[dict[str, Any]], str]]:
    """The arguments of a case, and what is wrong with what the model predicts, None `allowed`: nothing."""
    source = Source(draw)
    documents = [source.excerpt() for _ in range(300 if allowed else 80)]
    unseen = [source.document() for _ in range(25 if allowed else 2)]
    contexts = [d[:i] for d in unseen for i in range(1, len(d))]
    args = (documents, contexts, V, steps, draw.integer(0, 1000))
    if allowed is None:
        return args, lambda result: ""
    p = torch.stack([source.next(c) for c in contexts])

    def cost(log_q: Tensor) -> float:
        """The expected loss in nats a token: no sample of what follows is in it."""
        return float(-(p * log_q.masked_fill(p == 0, 0.0)).sum(-1).mean())

    entropy = cost(p.log())
    five_gram = cost(n_gram(documents, 5, contexts).log())
    here = torch.tensor([c[-1] for c in contexts])
    before = torch.tensor([c[-2] if len(c) > 1 else -1 for c in contexts])

    def fault(result: dict[str, Any]) -> str:
        log_q = result["log p"]
        if not isinstance(log_q, Tensor) or log_q.shape != p.shape:
            return "holds no predictions"
        if not bool(log_q.isfinite().all()):
            return "holds nan or inf: the training has diverged"
        q = log_q.double().exp()
        if not torch.allclose(q.sum(-1), torch.ones(len(q), dtype=q.dtype), atol=1e-3):
            return "holds predictions that are no distributions"
        if float(log_q.max() - log_q.min()) < 1e-4:
            return "gives every token the same probability: the model is as it was"
        if result["different rows"] < 60:
            return "comes from a model that has seen only a few of the documents"
        if float(q.gather(-1, here[:, None]).mean()) > 0.5:
            return "predicts the token that was just read"
        known = before >= 0
        if float(q[known].gather(-1, before[known, None]).mean()) > 0.5:
            return "predicts the token before the last one"
        loss = cost(log_q)
        if loss > 1.3 * math.log(V):
            return f"is worse than a uniform guess, {loss:.3f} nats a token"
        if loss > 0.985 * math.log(V):
            return f"is hardly better than a uniform guess, {loss:.3f} nats a token"
        if float(q[:, -1].mean()) > 0.02:
            return f"gives padding a probability of {float(q[:, -1].mean()):.2f}"
        if loss > five_gram:
            return (
                f"costs {loss:.3f} nats a token on new documents, more than a 5-gram, which "
                f"costs {five_gram:.3f}"
            )
        if loss > entropy + allowed:
            return (
                f"costs {loss:.3f} nats a token on new documents: the entropy is {entropy:.3f}, and "
                f"{allowed:g} more is allowed"
            )
        return ""

    return args, fault


@exercise.property(
    "after 100 steps the model predicts new documents better than a 5-gram", weight=3
)
def beats_n_grams(draw: Draw):
    args, fault = corpus(draw, 100, 0.4)
    yield Case(
        args, note="100 steps on 300 documents", accept=fault,
        wanted="a loss on new documents below that of a 5-gram, at most 0.4 above the entropy",
    )  # fmt: skip


def returned_losses(steps: int) -> Callable[[dict[str, Any]], str]:
    def fault(result: dict[str, Any]) -> str:
        losses = result["losses"]
        if not isinstance(losses, list) or not all(type(x) is float for x in losses):
            kind = type(losses[0] if isinstance(losses, list) and losses else losses).__name__
            return f"has {kind} as the losses" if type(losses) is list else f"is {kind}, not a list"
        if len(losses) != steps:
            return f"has {len(losses)} losses of {steps} steps"
        # The output layer begins at zero: every token has probability 1/V.
        if losses and abs(losses[0] - math.log(V)) > 1e-3:
            side = "more" if losses[0] > math.log(V) else "less"
            return f"begins with a loss of {losses[0]:.3f}, {side} than ln {V} of a uniform guess"
        return ""

    return fault


def record(steps: int) -> Callable[[dict[str, Any]], str]:
    def fault(result: dict[str, Any]) -> str:
        if result["batch sizes"] != [32] * steps:
            sizes = sorted(set(result["batch sizes"]))
            if sizes != [32]:
                return f"comes from batches of {str(sizes)[:40]} documents, not of 32"
            return f"comes from {len(result['batch sizes'])} batches in {steps} steps"
        if not result["in training mode"]:
            return "comes from a model that learned in evaluation mode"
        return ""

    return fault


@exercise.property("the mean loss of every batch is returned, as floats")
def losses(draw: Draw):
    for steps in (1, draw.integer(4, 9)):
        args, _ = corpus(draw, steps, None)
        yield Case(
            args, note=f"steps={steps}", accept=returned_losses(steps),
            wanted="one float per step, the first of them ln V",
        )  # fmt: skip


@exercise.property("every step is one batch of 32 documents, in training mode")
def batches(draw: Draw):
    for steps in (2, draw.integer(5, 12)):
        args, _ = corpus(draw, steps, None)
        yield Case(
            args, note=f"steps={steps}", accept=record(steps),
            wanted="32 documents in every step, with dropout on",
        )  # fmt: skip


@exercise.wrong(
    "trains the model to repeat the token it has just read",
    hint="Its training loss falls to 0 and it has learned to copy. Which token is the target of"
    " the token at t?",
    see="training-a-language-model#shifted-targets",
)
def not_shifted(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, :-1].masked_fill(rows[:, :-1] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "trains the model to predict the token before",
    hint="Your targets are shifted to the other side. What does the model know about the token it"
    " has to predict?",
    see="training-a-language-model#shifted-targets",
)
def backwards(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, 1:], rows[:, :-1].masked_fill(rows[:, :-1] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "trains on the padding",
    hint="Your model thinks that padding may follow. Which targets does the loss leave out?",
    see="training-a-language-model#padding",
)
def padding_learned(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "computes gradients and makes no step",
    hint="The gradients are computed and nothing uses them. Which call moves the weights?",
    see="training-run#the-training-loop",
)
def no_step(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "goes uphill",
    hint="Your loss grows. The gradient points upwards; which sign has the step?",
    see="training-run#the-training-loop",
)
def uphill(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        (-loss).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "trains on the same documents in every step",
    hint="The loss of 32 documents falls far, and new ones are no better. When do you draw a"
    " batch?",
    see="training-run#the-training-loop",
)
def same_batch(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    drawn = torch.randint(len(rows), (32,))
    for _ in range(steps):
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "takes a learning rate that is far too small",
    hint="In 100 steps of this length no weight gets anywhere. By how much does AdamW move a"
    " weight in a step?",
    see="training-run#the-training-loop",
)
def tiny_rate(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.00001)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "trains in evaluation mode",
    hint="Dropout is off while your model learns. Which call switches it on?",
    see="training-run#the-training-loop",
)
def eval_mode(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.eval()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "takes one document a step",
    hint="A gradient from one document is noise for the most part. How many documents has a batch"
    " here?",
    see="training-run#the-training-loop",
)
def one_by_one(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (1,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "takes the sum of the losses, not their mean",
    hint="At the beginning every token has probability 1/V. Which loss is that, per target?",
    see="training-a-language-model#the-loss",
)
def sum_of_losses(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten(), reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "divides by the padded places as well",
    hint="Your first loss is smaller than ln V. Over how many targets is the mean?",
    see="training-a-language-model#the-loss",
)
def mean_with_padding(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten(), reduction="none")
        loss = loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "returns tensors",
    hint="Each of them keeps a graph in memory. Which method gives a Python number?",
    see="training-run#the-training-loop",
)
def tensors(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@exercise.wrong(
    "returns the last loss alone",
    hint="A curve has a point per step. Where do you keep the earlier ones?",
    see="training-run#the-training-loop",
)
def last_loss(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1]


@exercise.wrong(
    "makes 40 steps, whatever is asked for",
    hint="How many steps to make is an argument.",
    see="training-run#the-training-loop",
)
def fixed_steps(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(40):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "computes the loss where no gradient is kept",
    hint="no_grad is for measuring. Without a graph there is nothing that backward could go"
    " through.",
    see="training-run#the-training-loop",
)
def no_gradient(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        with torch.no_grad():
            logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.wrong(
    "learns from the first target of every document alone",
    hint="Every position is a prediction with a target of its own: that is what makes training"
    " fast. How many do you use of each document?",
    see="training-a-language-model#shifted-targets",
)
def first_position(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits[:, 0], targets[drawn][:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.right("Adam at one rate")
def one_rate(model, documents, pad_id, steps):
    longest = max(len(d) for d in documents)
    rows = torch.tensor([d + [pad_id] * (longest - len(d)) for d in documents])
    inputs, targets = rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == pad_id, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    losses = []
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,))
        logits = model(inputs[drawn])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[drawn].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.right("clipping and a cosine, batches padded one by one")
def with_clipping(model, documents, pad_id, steps):
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    model.train()
    losses = []
    for step in range(1, steps + 1):
        batch = [documents[i] for i in torch.randint(len(documents), (32,)).tolist()]
        T = max(map(len, batch))
        x = torch.tensor([d + [pad_id] * (T - len(d)) for d in batch])[:, :-1]
        y = torch.tensor([d + [-100] * (T - len(d)) for d in batch])[:, 1:]
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * min(step / 15, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = nn.functional.cross_entropy(model(x).transpose(1, 2), y)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses += [loss.item()]
    return losses


@exercise.right("a linear descent, through the documents in shuffled order")
def shuffled(model, documents, pad_id, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    model.train(True)
    losses: list[float] = []
    order: list[int] = []
    while len(losses) < steps:
        if len(order) < 32:
            order = torch.randperm(len(documents)).tolist()
        chosen, order = [documents[i] for i in order[:32]], order[32:]
        rows = nn.utils.rnn.pad_sequence(
            [torch.tensor(d) for d in chosen], batch_first=True, padding_value=pad_id
        )
        log_p = model(rows[:, :-1]).log_softmax(-1)
        real = rows[:, 1:] != pad_id
        loss = -log_p.gather(-1, rows[:, 1:, None])[..., 0][real].mean()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - len(losses) / steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


exercise.equivalent(
    "torch.optim.Adam(model.parameters(), lr=0.01) -> torch.optim.Adam(model.parameters(), lr=0.02)",
    because="the rate is left to the student, and both learn in time",
)
