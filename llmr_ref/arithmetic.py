"""Generated arithmetic with a verifiable reward, and a small base model that half knows it.

A prompt is "37+58=", its answer "95$"; numbers have a fixed count of digits, so that prompts are of one
length. Shapes: N problems, P tokens in a prompt, A in the longest answer ("$" fills up the shorter ones),
B sampled answers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE, CharTokenizer
from llmr_ref.distributed import resolve_device
from llmr_ref.generation import generate
from llmr_ref.optim import AdamW, clip_gradients
from llmr_ref.policy_gradient import kl_divergence
from llmr_ref.posttraining import require_range, sequence_log_probabilities
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import Transformer

TOKENIZER = CharTokenizer("0123456789+=$")
(END,) = TOKENIZER.encode("$")

BASE = TransformerConfig(
    vocab_size=TOKENIZER.vocab_size,
    d_model=32,
    n_layers=2,
    n_heads=4,
    d_ff=128,
    activation="gelu",
    positions="learned",
    max_length=64,
)

Prompts = Int[Tensor, "B P"]
Answers = Int[Tensor, "B A"]
Score = Callable[[Prompts, Answers], Float[Tensor, " B"]]

# --- the task -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problems:
    """Sums and their right answers."""

    prompts: Int[Tensor, "N P"]
    answers: Int[Tensor, "N A"]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice | Int[Tensor, " n"]) -> "Problems":
        return Problems(self.prompts[rows], self.answers[rows])

    def draw(self, n: int, generator: torch.Generator) -> "Problems":
        """n of them, with replacement."""
        rows = torch.randint(len(self), (n,), generator=generator, device=generator.device)
        return self[rows.to(self.prompts.device)]


def sums(
    digits: int = 2, *, held_out: int = 512, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Problems, Problems]:
    """Every sum of two numbers of that many digits, shuffled: those to train on, those held out.

    device: where everything that follows happens; "auto" picks CUDA, then MPS, then CPU.
    Raises: ValueError for digits outside 1..3, held_out that leaves nothing on one side, or a device
    that is not there.
    """
    if not 1 <= digits <= 3:
        raise ValueError(f"digits must lie in 1..3 (a million sums), got {digits}")
    numbers = range(10 ** (digits - 1), 10**digits)
    if not 1 <= held_out < len(numbers) ** 2:
        raise ValueError(f"held_out must lie in 1..{len(numbers) ** 2 - 1}, got {held_out}")
    pairs = [(a, b) for a in numbers for b in numbers]
    prompts = torch.tensor([TOKENIZER.encode(f"{a}+{b}=") for a, b in pairs])
    answers = torch.tensor([TOKENIZER.encode(f"{a + b}".ljust(digits + 2, "$")) for a, b in pairs])
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    device = resolve_device(device)
    problems = Problems(prompts[order].to(device), answers[order].to(device))
    return problems[held_out:], problems[:held_out]


def is_right(prompt: str, answer: str) -> bool:
    """The verifier: is what stands before the answer's first "$" the sum, and is there a "$"?

    Raises: ValueError for a prompt that is not a sum.
    """
    a, plus, b = prompt.removesuffix("=").partition("+")
    if not (a.isdecimal() and plus and b.isdecimal() and prompt.endswith("=")):
        raise ValueError(f"a prompt is like '37+58=', got {prompt!r}")
    return answer.partition("$")[:2] == (str(int(a) + int(b)), "$")


def verify(prompts: Prompts, answers: Answers) -> Float[Tensor, " B"]:
    """The verifiable reward: 1 for a right answer, 0 for any other. Source: L5 "RL for Reasoning"."""
    decode = TOKENIZER.decode
    rights = [is_right(decode(x), decode(y)) for x, y in zip(prompts, answers, strict=True)]
    return torch.tensor(rights, dtype=torch.float32, device=answers.device)


# --- a policy on it -----------------------------------------------------------------------------


def counted(answers: Answers) -> Bool[Tensor, "B A"]:
    """Which tokens are the answer's own: all up to the first "$", and that."""
    ends = answers == END
    return (ends.cumsum(-1) - ends.long()) == 0


def answer_logits(
    policy: Transformer, prompts: Prompts, answers: Answers
) -> tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"]]:
    """The logits that predict each token of the answers, and the targets: IGNORE after the end."""
    logits = policy(torch.cat([prompts, answers[:, :-1]], dim=-1))[:, prompts.shape[-1] - 1 :]
    return logits, answers.masked_fill(~counted(answers), IGNORE)


def sample_answers(
    policy: Transformer, prompts: Prompts, n_tokens: int, generator: torch.Generator
) -> Answers:
    """One answer a prompt, drawn at temperature 1, "$" after its end.

    Raises: as `generation.stream`.
    """
    tokens = generate(
        policy, prompts, max_new_tokens=n_tokens, stop_tokens=END, generator=generator
    )
    P = prompts.shape[-1]
    return F.pad(tokens[:, P:], (0, P + n_tokens - tokens.shape[-1]), value=END)


@dataclass(frozen=True)
class Record:
    """A policy on the held-out problems after some steps.

    accuracy: the exact probability of a right answer at temperature 1, averaged over the problems.
    greedy_accuracy: how many the greedy answer solves. reward: mean score of sampled answers. kl: mean
    KL(pi || ref) of an answer, in nats, from the same samples.
    """

    step: int
    accuracy: float
    greedy_accuracy: float
    reward: float
    kl: float


@torch.no_grad()
def accuracy(policy: Transformer, problems: Problems) -> tuple[float, float]:
    """E[pi(right answer)] and the share of right greedy answers, both exact: nothing is sampled."""
    logits, targets = answer_logits(policy, problems.prompts, problems.answers)
    likely = (logits.argmax(-1) == targets) | (targets == IGNORE)
    expected = sequence_log_probabilities(logits, targets).exp().mean()
    return expected.item(), likely.all(-1).float().mean().item()


@torch.no_grad()
def measure(
    policy: Transformer,
    reference: Transformer,
    problems: Problems,
    score: Score,
    *,
    step: int,
    seed: int,
) -> Record:
    """The record of a policy; the same seed draws with the same random numbers at every step."""
    prompts = problems.prompts
    generator = torch.Generator(prompts.device).manual_seed(seed)
    answers = sample_answers(policy, prompts, problems.answers.shape[-1], generator)
    logits, _ = answer_logits(policy, prompts, answers)
    # Exact at every position, sampled only over what came before: less noise than k1 or k3.
    kl = kl_divergence(logits, answer_logits(reference, prompts, answers)[0])
    kl_of_answer = kl.masked_fill(~counted(answers), 0.0).sum(-1)
    return Record(
        step,
        *accuracy(policy, problems),
        reward=score(prompts, answers).mean().item(),
        kl=kl_of_answer.mean().item(),
    )


# --- the model that everything starts from ------------------------------------------------------


def pretrain(
    train: Problems,
    held_out: Problems,
    *,
    skill: float = 0.85,
    answered: float = 0.7,
    mixed_steps: int = 200,
    max_steps: int = 3000,
    batch_size: int = 64,
    lr: float = 5e-3,
    seed: int = 0,
    config: TransformerConfig | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Transformer:
    """A small base model, which continues text: worked sums, or one question after another.

    It reads worked sums, "37+58=95$", until it can add (accuracy `skill`, or max_steps), then for
    `mixed_steps` lines of which only the share `answered` is worked: after the others comes the next
    question, "37+58=41+2". Its accuracy is about skill times answered.
    Raises: ValueError for a share outside [0, 1], or a count below 1.
    Source: L5 "Base Language Models".
    """
    require_range(0 <= answered <= 1, "answered", answered, "in [0, 1]")
    check_counts(mixed_steps=mixed_steps, max_steps=max_steps, batch_size=batch_size)
    device = train.prompts.device
    if config is None:
        config = BASE
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(config, device=device)
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98))

    def step(share: float, lr: float) -> None:
        lines = train.draw(batch_size, generator)
        questions = train.draw(batch_size, generator).prompts[:, : lines.answers.shape[-1]]
        worked = torch.rand(batch_size, 1, generator=generator, device=device) < share
        lines = Problems(lines.prompts, torch.where(worked, lines.answers, questions))
        tokens = torch.cat([lines.prompts, lines.answers], dim=-1)
        in_line = counted(lines.answers)
        targets = torch.cat([lines.prompts, lines.answers.masked_fill(~in_line, IGNORE)], dim=-1)
        loss = next_token_loss(model(tokens[:, :-1]), targets[:, 1:])
        descend(optimizer, loss, lr)

    for n in range(1, max_steps + 1):
        step(1.0, lr * min(1.0, n / 50))
        if n % 10 == 0:
            reached = accuracy(model, held_out)[0]
            if progress is not None:
                progress(n, reached)
            if reached >= skill:
                break
    for n in range(mixed_steps):
        step(answered, lr * (1 - n / mixed_steps))
    return model


def descend(optimizer: AdamW, loss: Tensor, lr: float) -> None:
    """One step down the loss, its gradient clipped to norm 1."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
        clip_gradients(group["params"], 1.0)
    optimizer.step()


def check_counts(**counts: int) -> None:
    """Raise ValueError for a count below 1."""
    for name, count in counts.items():
        require_range(count >= 1, name, count, "at least 1")
