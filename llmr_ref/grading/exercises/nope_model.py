"""Exercise: what a causal mask knows about order when nothing else does, learnt in a second."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmr_ref.grading.exercise import Case, Draw, Exercise

LEARNT = 1 / 3  # of what is possible without order; with order known the loss falls to 0
NEAR = 0.3  # nats above what is possible without order


class Reference(nn.Module):
    """One attention layer and one hidden layer, no positions. Source: L1 "NoPE"; Kazemnejad 2023."""

    def __init__(self, vocab_size: int, n_classes: int, d_model: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal)
        logits: Tensor = self.output(self.hidden(x).relu())
        return logits


exercise = Exercise(
    "NopeModel",
    points=4,
    difficulty=4,
    minutes=30,
    reference=Reference,
    chapter="nope#b-followed-by-three-as",
)


@exercise.driver
def learn(NopeModel, tokens, targets, causal, seed):
    """Train from this seed; log-probabilities of the classes after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NopeModel(int(tokens.max()) + 1, int(targets.max()) + 1, 16, causal)
        for weight in model.parameters():
            if weight.dim() > 1:  # small at first, so that attention begins with even weights
                torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(70):
            logits = model(tokens)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return model(tokens).log_softmax(-1)


def order(draw: Draw, causal: bool, T: int = 4, note: str = "") -> Case:
    """B and T - 1 letters in every order; the class, a number drawn for it, names the position."""
    tokens = torch.tensor([[0, *rest] for rest in itertools.product((1, 2), repeat=T - 1)])
    targets = draw.permutation(T).expand(tokens.shape).clone()
    return Case(
        (tokens, targets, causal, draw.integer(0, 10**6)),
        note=note,
        accept=judged(tokens, targets, causal, T),
        wanted=(
            f"a loss below {LEARNT * possible(T):.2f} nats, and no position that sees later tokens"
            if causal
            else f"equal predictions for equal tokens, and a loss near {possible(T):.2f} nats"
        ),
    )


def possible(T: int) -> float:
    """The entropy of the position of a letter among T - 1, nats a token; that of B is known."""
    return (T - 1) / T * math.log(T - 1)


def judged(tokens: Tensor, targets: Tensor, causal: bool, T: int):
    """What is wrong with log-probabilities; sequences 2 n and 2 n + 1 differ in the last token."""

    def fault(log_p: Tensor) -> str:
        if log_p.shape != (*tokens.shape, T):
            return f"has shape {tuple(log_p.shape)}, expected {(*tokens.shape, T)}"
        if not log_p.isfinite().all():
            return "holds numbers that are not finite"
        p = log_p.exp()
        if (p - p[:, :1]).abs().max() < 1e-4:
            return "is the same at every position, whatever the token"
        equal = tokens[:, :, None] == tokens[:, None, :]
        s = log_p.clamp(min=-30)  # where p is nearly 0 or 1, differences show in the logarithm
        apart = ((s[:, :, None] - s[:, None]).abs().amax(-1) * equal).max() > 1e-3
        letters = p[tokens == 1]
        alone = (letters - letters[0]).abs().max() < 1e-4
        leak = (s[0::2, :-1] - s[1::2, :-1]).abs().max() > 1e-3
        loss = float(F.nll_loss(log_p.flatten(0, 1), targets.flatten()))
        if causal:
            if alone:
                return "depends on each token alone, so nothing is attended to"
            if not apart:
                return "is the same for equal tokens, so nothing carries their order"
            if leak:
                return "changes at early positions when a later token does"
            if loss > LEARNT * possible(T):
                return _not_learnt(loss, p, T)
            return ""
        if apart:
            if leak:
                return "tells equal tokens apart, which attention without order cannot"
            return "does not change at early positions when a later token does"
        if loss > possible(T) + NEAR:
            return _not_learnt(loss, p, T)
        return ""

    return fault


def _not_learnt(loss: float, p: Tensor, T: int) -> str:
    if p.max() < 0.75:
        return f"is never surer than {float(p.max()):.2f}, and the loss is {loss:.2f} nats"
    if loss > math.log(T):
        return f"is worse than guessing: {loss:.2f} nats"
    return f"has a loss of {loss:.2f} nats, which is not enough"


@exercise.property("with a causal mask the order of tokens is learnt", weight=2)
def with_mask(draw: Draw):
    yield order(draw, True, note="a causal mask")


@exercise.property("without a mask equal tokens are told apart by nobody")
def without_mask(draw: Draw):
    yield order(draw, False, note="full attention")


@exercise.property("five positions are learnt as well as four", weight=0.5)
def lengths(draw: Draw):
    yield order(draw, True, T=5, note="five positions and a causal mask")


@exercise.wrong(
    "masks whether it is asked to or not",
    hint="The ablation compares two models. What does `causal=False` change in yours?",
    see="nope#the-mask-carries-position",
)
class AlwaysCausal(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        T = tokens.shape[-1]
        allowed = torch.ones(T, T, dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "masks nothing, whether asked to or not",
    hint="Three equal tokens get three equal outputs. What tells them apart when positions do not?",
    see="nope#the-mask-carries-position",
)
class NeverCausal(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "sees what follows instead of what came before",
    hint="Rows are queries. Which triangle holds the keys that came before?",
    see="nope#the-mask-carries-position",
)
class Transposed(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed.T, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "masks the wrong way round when it is asked to",
    hint="Look at what `causal=True` and `causal=False` do in turn.",
    see="nope#the-mask-carries-position",
)
class Inverted(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if not self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "hides every token from itself",
    hint="The first token then sees nothing at all, and a softmax over nothing is not a number.",
    see="nope#the-mask-carries-position",
)
class Strict(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril(-1)
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "adds position embeddings",
    hint="NoPE stands for no position embedding. With them, full attention knows order too.",
    see="nope#b-followed-by-three-as",
)
class WithPositions(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(64, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[-1]))
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "leaves out attention",
    hint="A token alone cannot know where it stands. Through what does it see the others?",
    see="nope#b-followed-by-three-as",
)
class NoAttention(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + V
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "returns one prediction for the whole sequence",
    hint="Every position has a class of its own, so every position needs scores of its own.",
    see="nope#b-followed-by-three-as",
)
class Averaged(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        x = x.mean(-2, keepdim=True).expand(x.shape)
        return self.output(self.hidden(x).relu())


@exercise.wrong(
    "returns probabilities as if they were scores",
    hint="The loss takes a softmax itself. Scores between 0 and 1 can never be sure.",
    see="nope#b-followed-by-three-as",
)
class Probabilities(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu()).softmax(-1)


@exercise.wrong(
    "returns the most probable class",
    hint="Training needs scores, and a gradient. `argmax` has none.",
    see="nope#b-followed-by-three-as",
)
class OneHot(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu()).argmax(-1)


@exercise.wrong(
    "keeps its weights where the optimizer does not find them",
    hint="`model.parameters()` lists what modules and nn.Parameter hold. What does it "
    "find in yours?",
    see="nope#b-followed-by-three-as",
)
class PlainList(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = torch.randn(vocab_size, d_model)
        self.layers = [
            nn.Linear(d_model, 3 * d_model),
            nn.Linear(d_model, 4 * d_model),
            nn.Linear(4 * d_model, n_classes),
        ]

    def forward(self, tokens):
        qkv, hidden, output = self.layers
        x = self.embedding[tokens]
        Q, K, V = qkv(x).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal)
        return output(hidden(x).relu())


@exercise.right("torch's attention")
class TorchAttention(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, n_classes)
        )

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        return self.ffn(x + F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal))


@exercise.right("scores, mask, softmax")
class WithScores(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.hidden = nn.Linear(d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        Q, K, V = self.qkv(x).chunk(3, dim=-1)
        scores = Q @ K.mT / math.sqrt(x.shape[-1])
        if self.causal:
            T = tokens.shape[-1]
            allowed = torch.ones(T, T, dtype=torch.bool).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        x = x + scores.softmax(-1) @ V
        return self.output(self.hidden(x).relu())


@exercise.right("a mean over what is seen: weights that do not depend on the scores")
class RunningMean(nn.Module):
    def __init__(self, vocab_size, n_classes, d_model, causal):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.mixed = nn.Linear(2 * d_model, 4 * d_model)
        self.output = nn.Linear(4 * d_model, n_classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        T = x.shape[-2]
        weights = torch.ones(T, T)
        if self.causal:
            weights = weights.tril()
        seen = weights / weights.sum(-1, keepdim=True) @ x
        return self.output(torch.relu(self.mixed(torch.cat((x, seen), dim=-1))))


exercise.equivalent(
    "3 * d_model -> 3",
    (
        "nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * "
        "d_model, n_classes)) -> nn.Sequential(nn.GELU(), nn.Linear(d_model, 4 * "
        "d_model), nn.Linear(4 * d_model, n_classes))"
    ),
    (
        "x + F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal) -> x - "
        "F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal)"
    ),
    (
        "x + F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal) -> "
        "F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal)"
    ),
    (
        "F.scaled_dot_product_attention(Q, K, V, is_causal=self.causal) -> "
        "F.scaled_dot_product_attention(K, Q, V, is_causal=self.causal)"
    ),
    because="another model without positions, which learns the task as well: only what is "
    "learnt is judged",
)
