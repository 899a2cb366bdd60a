"""Experiments that need no corpus: peaked scores, order without positions, learning from rewards."""

import math

import torch
from torch import Tensor, nn

from llmr_ref.config import TransformerConfig
from llmr_ref.optim import AdamW
from llmr_ref.policy_gradient import group_advantages, reinforce_loss
from llmr_ref.transformer import Transformer

# --- sqrt(d_k) and saturation -------------------------------------------------------------------


def peaked_scores(seed: int, *, widths: list[int], keys: int, queries: int) -> dict[str, object]:
    """Scores of random queries and keys: their variance, the largest weight, and the gradient's size."""
    generator = torch.Generator().manual_seed(seed)
    answer: dict[str, object] = {}
    for scaled in (True, False):
        rows = []
        for d in widths:
            Q = torch.randn(queries, d, generator=generator, dtype=torch.float64)
            K = torch.randn(keys, d, generator=generator, dtype=torch.float64)
            scores = Q @ K.T / (math.sqrt(d) if scaled else 1.0)
            A = scores.softmax(-1)
            # The Jacobian of a softmax is diag(a) - a a^T; its Frobenius norm says how much can be learned.
            squares = A.square().sum(-1)
            jacobian = (squares - 2 * A.pow(3).sum(-1) + squares.square()).clamp(min=0).sqrt()
            rows.append([d, float(scores.var()), float(A.amax(-1).mean()), float(jacobian.mean())])
        answer["scaled" if scaled else "plain"] = rows
    return answer


# --- order without positions --------------------------------------------------------------------


def _b_and_three_as(
    generator: torch.Generator, batch: int, length: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """Letters A, B and C, and where a B followed by three As is complete (causal) or begins."""
    tokens = torch.randint(0, 3, (batch, length), generator=generator)
    starts = torch.randint(0, length - 3, (batch, 2), generator=generator)
    for shift, letter in enumerate((1, 0, 0, 0)):
        tokens.scatter_(1, starts + shift, letter)
    here = torch.ones(batch, length - 3, dtype=torch.bool)
    for shift, letter in enumerate((1, 0, 0, 0)):
        here &= tokens[:, shift : length - 3 + shift] == letter
    labels = torch.zeros(batch, length, dtype=torch.long)
    if causal:
        labels[:, 3:] = here
    else:
        labels[:, : length - 3] = here
    return tokens, labels


def order_without_positions(
    seed: int, *, steps: int, batch: int, length: int, rate: float, width: int, layers: int
) -> dict[str, float]:
    """How well a model finds "B followed by three As", with and without positions, by mask.

    Balanced accuracy where the letter is right: 0.5 for a model that sees no order.
    """
    answer = {}
    for causal in (True, False):
        for positions in ("rope", "none"):
            torch.manual_seed(seed)
            model = Transformer(
                TransformerConfig(
                    vocab_size=3,
                    d_model=width,
                    n_layers=layers,
                    n_heads=2,
                    max_length=length,
                    positions=positions,
                    causal=causal,
                )
            )
            generator = torch.Generator().manual_seed(seed)
            optimizer = AdamW(model.parameters(), lr=rate)
            for _ in range(steps):
                tokens, labels = _b_and_three_as(generator, batch, length, causal)
                logits = model(tokens)[..., :2]
                loss = nn.functional.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), weight=torch.tensor([1.0, 5.0])
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                tokens, labels = _b_and_three_as(
                    torch.Generator().manual_seed(10_000), 512, length, causal
                )
                found = model(tokens)[..., :2].argmax(-1)
            asked = tokens == (0 if causal else 1)  # elsewhere the letter alone tells
            recall = (found[asked & (labels == 1)] == 1).float().mean()
            spared = (found[asked & (labels == 0)] == 0).float().mean()
            mask = "causal" if causal else "full"
            answer[f"{mask}, {positions}"] = float(recall + spared) / 2
    return answer


# --- learning from rewards ----------------------------------------------------------------------


def learning_from_rewards(
    seed: int, *, digits: int, steps: int, every: int, group: int, rate: float
) -> dict[str, list[float]]:
    """Share of right sums while a policy learns to add from a verifier, by what is taken off the reward."""
    pairs = torch.cartesian_prod(torch.arange(digits), torch.arange(digits))
    right = pairs.sum(1)
    answer = {}
    for baseline in ("none", "group mean", "group mean and deviation"):
        torch.manual_seed(seed)
        policy = nn.Sequential(
            nn.EmbeddingBag(2 * digits, 128, mode="sum"), nn.ReLU(), nn.Linear(128, 2 * digits - 1)
        )
        optimizer = AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
        prompts = pairs + torch.tensor([0, digits])
        curve = []
        for step in range(steps):
            log_p = policy(prompts).log_softmax(-1)
            answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
            rewards = (answers == right[:, None]).float()
            if baseline == "none":
                advantages = rewards
            else:
                advantages = group_advantages(rewards, standardize=baseline != "group mean")
            optimizer.zero_grad()
            reinforce_loss(log_p.gather(-1, answers), advantages).backward()
            optimizer.step()
            if (step + 1) % every == 0:
                with torch.no_grad():
                    p = policy(prompts).softmax(-1).gather(-1, right[:, None])
                curve.append(float(p.mean()))
        answer[baseline] = curve
    return answer
