"""Every method of post-training, run on generated arithmetic: from one base model, in one loop.

Shapes as in `arithmetic`: P tokens in a prompt, A in an answer, B sampled answers. Losses are those of
`posttraining` and `policy_gradient`.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmr_ref.arithmetic import (
    Answers,
    Problems,
    Prompts,
    Record,
    Score,
    answer_logits,
    check_counts,
    counted,
    descend,
    measure,
    sample_answers,
    verify,
)
from llmr_ref.masks import document_mask
from llmr_ref.optim import AdamW
from llmr_ref.policy_gradient import (
    Average,
    clipped_objective,
    generalized_advantages,
    group_advantages,
    grpo_loss,
    masked_mean,
    reinforce_loss,
    rewards_with_kl,
    value_loss,
)
from llmr_ref.posttraining import (
    ScalarModel,
    dpo_loss,
    pack_examples,
    preference_loss,
    token_log_probabilities,
)
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import Transformer

# --- one loop for all methods -------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The policy that a method ended with, and how it came there, step 0 first."""

    policy: Transformer
    history: list[Record]


class Loop(TypedDict, total=False):
    """What every method takes: optimiser steps, seed, steps between two records, and who sees them."""

    steps: int
    seed: int
    every: int
    progress: Callable[[Record], None]


def _run(
    base: Transformer,
    held_out: Problems,
    losses: Callable[[Transformer, torch.Generator], Iterator[Tensor]],
    *,
    lr: float,
    score: Score = verify,
    trained: nn.Module | None = None,
    steps: int = 150,
    seed: int = 0,
    every: int = 10,
    progress: Callable[[Record], None] | None = None,
) -> Run:
    """One optimiser step a loss, lr falling to zero; the next loss is computed after the step."""
    check_counts(steps=steps, every=every)
    policy = copy.deepcopy(base)
    parameters = [*policy.parameters(), *(trained.parameters() if trained is not None else ())]
    optimizer = AdamW(parameters, lr, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator(held_out.prompts.device).manual_seed(seed)
    history: list[Record] = []

    def record(step: int) -> None:
        history.append(measure(policy, base, held_out, score, step=step, seed=seed))
        if progress is not None:
            progress(history[-1])

    record(0)
    for step, loss in zip(range(1, steps + 1), losses(policy, generator), strict=False):
        descend(optimizer, loss, lr * (1 - (step - 1) / steps))
        if step % every == 0 or step == steps:
            record(step)
    return Run(policy, history)


@torch.no_grad()
def _rollout(
    policy: Transformer,
    train: Problems,
    n_prompts: int,
    group: int,
    score: Score,
    generator: torch.Generator,
) -> tuple[Prompts, Answers, Float[Tensor, " B"]]:
    """`group` answers to each of n_prompts problems, side by side, with their scores."""
    problems = train.draw(n_prompts, generator)
    prompts = problems.prompts.repeat_interleave(group, dim=0)
    answers = sample_answers(policy, prompts, problems.answers.shape[-1], generator)
    return prompts, answers, score(prompts, answers)


def _log_probabilities(
    policy: Transformer, prompts: Prompts, answers: Answers
) -> Float[Tensor, "B A"]:
    return token_log_probabilities(*answer_logits(policy, prompts, answers))


# --- the methods --------------------------------------------------------------------------------


def run_sft(
    base: Transformer,
    train: Problems,
    held_out: Problems,
    *,
    demonstrations: int = 2000,
    batch_size: int = 8,
    lr: float = 1e-3,
    **loop: Unpack[Loop],
) -> Run:
    """Fine-tune on right answers, packed (batch_size rows), with the loss on the answers only.

    Raises: ValueError for a count below 1.
    Source: L4 "Supervised finetuning"; L5 "Instruction Tuning".
    """
    check_counts(demonstrations=demonstrations, batch_size=batch_size)
    device = train.prompts.device

    def losses(policy: Transformer, generator: torch.Generator) -> Iterator[Tensor]:
        shown = train.draw(demonstrations, generator)
        own = counted(shown.answers)
        answers = [answer[kept] for answer, kept in zip(shown.answers, own, strict=True)]
        examples = zip(shown.prompts, answers, strict=True)
        packed = pack_examples(examples, base.config.max_length, device=device)
        n_rows = len(packed.inputs)
        while True:
            rows = torch.randint(n_rows, (batch_size,), generator=generator, device=device)
            inputs, targets, document_ids, positions = (x[rows] for x in packed)
            logits = policy(inputs, mask=document_mask(document_ids), positions=positions)
            yield next_token_loss(logits, targets)

    return _run(base, held_out, losses, lr=lr, **loop)


def run_reinforce(
    base: Transformer,
    train: Problems,
    held_out: Problems,
    *,
    n_prompts: int = 128,
    lr: float = 1e-3,
    score: Score = verify,
    **loop: Unpack[Loop],
) -> Run:
    """REINFORCE; an answer's baseline is the mean reward of the others in the batch.

    Raises: ValueError for fewer than 2 prompts.
    Source: L5 "RL for Reasoning"; Williams 1992.
    """

    def losses(policy: Transformer, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            prompts, answers, rewards = _rollout(policy, train, n_prompts, 1, score, generator)
            advantages = group_advantages(rewards, baseline="leave one out", standardize=False)
            yield reinforce_loss(_log_probabilities(policy, prompts, answers).sum(-1), advantages)

    return _run(base, held_out, losses, lr=lr, score=score, **loop)


def run_grpo(
    base: Transformer,
    train: Problems,
    held_out: Problems,
    *,
    n_prompts: int = 16,
    group: int = 8,
    updates: int = 2,
    lr: float = 1e-3,
    beta: float = 0.01,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    standardize: bool = True,
    over: Average = "sequences",
    score: Score = verify,
    **loop: Unpack[Loop],
) -> Run:
    """GRPO: `updates` steps on each batch of n_prompts times `group` answers.

    Dr. GRPO: standardize False, over "positions". DAPO: clip_high 0.28, over "tokens", beta 0.
    Raises: ValueError for a count below 1, a group below 2, or as `policy_gradient.grpo_loss`.
    Source: Shao et al. 2024, algorithm 1; Liu et al. 2025; Yu et al. 2025.
    """
    check_counts(n_prompts=n_prompts, updates=updates)

    def losses(policy: Transformer, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            prompts, answers, rewards = _rollout(policy, train, n_prompts, group, score, generator)
            advantages = group_advantages(rewards.view(-1, group), standardize=standardize)
            with torch.no_grad():
                old, ref = (_log_probabilities(m, prompts, answers) for m in (policy, base))
            for _ in range(updates):
                yield grpo_loss(
                    _log_probabilities(policy, prompts, answers),
                    old,
                    ref,
                    advantages.flatten(),
                    counted(answers),
                    clip_low=clip_low,
                    clip_high=clip_high,
                    beta=beta,
                    over=over,
                )

    return _run(base, held_out, losses, lr=lr, score=score, **loop)


def run_ppo(
    base: Transformer,
    train: Problems,
    held_out: Problems,
    *,
    n_prompts: int = 128,
    updates: int = 4,
    lr: float = 1e-3,
    beta: float = 0.02,
    clip: float = 0.2,
    gamma: float = 1.0,
    lam: float = 0.95,
    score: Score = verify,
    **loop: Unpack[Loop],
) -> Run:
    """PPO with a critic, GAE and a KL penalty in the rewards; `updates` steps on each batch.

    Raises: ValueError for a count below 1, or as the formulas of `policy_gradient`.
    Source: L4 "Turning GPT to Chat-GPT", step 3; Ouyang et al. 2022, section 3.5.
    """
    check_counts(n_prompts=n_prompts, updates=updates)
    critic = ScalarModel(base)

    def values(prompts: Prompts, answers: Answers) -> Float[Tensor, "B A"]:
        return critic(torch.cat([prompts, answers[:, :-1]], dim=-1))[:, prompts.shape[-1] - 1 :]

    def losses(policy: Transformer, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            prompts, answers, scores = _rollout(policy, train, n_prompts, 1, score, generator)
            mask = counted(answers)
            with torch.no_grad():
                old, ref = (_log_probabilities(m, prompts, answers) for m in (policy, base))
                rewards = rewards_with_kl(scores, old, ref, mask, beta=beta)
                advantages, returns = generalized_advantages(
                    rewards, values(prompts, answers), mask, gamma=gamma, lam=lam
                )
                # Of mean 0 and deviation 1 over the batch, so that no scale of rewards sets the step.
                centred = advantages - masked_mean(advantages, mask)
                advantages = centred / (masked_mean(centred.square(), mask).sqrt() + 1e-6)
            for _ in range(updates):
                new = _log_probabilities(policy, prompts, answers)
                objective = clipped_objective(new, old, advantages, clip_low=clip)
                critic_loss = value_loss(values(prompts, answers), returns, mask)
                yield critic_loss - masked_mean(objective, mask)

    return _run(base, held_out, losses, lr=lr, score=score, trained=critic, **loop)


class Comparisons(NamedTuple):
    """Two answers to each prompt, the one preferred first."""

    prompts: Int[Tensor, "N P"]
    chosen: Int[Tensor, "N A"]
    rejected: Int[Tensor, "N A"]


def compare(
    policy: Transformer, train: Problems, *, n_prompts: int = 4000, group: int = 4, seed: int = 0
) -> Comparisons:
    """Among `group` answers of the policy to a prompt, every right one over every wrong one.

    Raises: ValueError for a count below 1, or answers that are all right or all wrong.
    Source: L4 "Collect comparison data and train a reward model".
    """
    check_counts(n_prompts=n_prompts, group=group)
    generator = torch.Generator(train.prompts.device).manual_seed(seed)
    prompts, answers, rewards = _rollout(policy, train, n_prompts, group, verify, generator)
    rewards = rewards.view(n_prompts, group)
    n, better, worse = (rewards[:, :, None] > rewards[:, None, :]).nonzero(as_tuple=True)
    if not len(n):
        raise ValueError(f"no prompt of {n_prompts} has a right and a wrong answer among {group}")
    prompts, answers = (x.view(n_prompts, group, -1) for x in (prompts, answers))
    return Comparisons(prompts[n, 0], answers[n, better], answers[n, worse])


def train_reward_model(
    base: Transformer,
    comparisons: Comparisons,
    *,
    steps: int = 600,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
) -> ScalarModel:
    """A reward model that prefers what was chosen.

    Raises: ValueError for a count below 1.
    Source: L4 "Collect comparison data and train a reward model"; Ouyang et al. 2022, equation 1.
    """
    check_counts(steps=steps, batch_size=batch_size)
    model = ScalarModel(base)
    optimizer = AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1)
    device = comparisons.prompts.device
    generator = torch.Generator(device).manual_seed(seed)
    n = len(comparisons.prompts)
    score = reward_of(model)
    for step in range(steps):
        rows = torch.randint(n, (batch_size,), generator=generator, device=device)
        prompts, chosen, rejected = (x[rows] for x in comparisons)
        both = score(prompts.repeat(2, 1), torch.cat([chosen, rejected]))
        descend(optimizer, preference_loss(*both.chunk(2)), lr * (1 - step / steps))
    return model


def reward_of(model: ScalarModel) -> Score:
    """A reward model as a score: the number at the answer's end."""

    def score(prompts: Prompts, answers: Answers) -> Float[Tensor, " B"]:
        lengths = prompts.shape[-1] + counted(answers).sum(-1)
        return model.reward(torch.cat([prompts, answers], dim=-1), lengths)

    return score


def run_dpo(
    base: Transformer,
    comparisons: Comparisons,
    held_out: Problems,
    *,
    batch_size: int = 64,
    lr: float = 3e-4,
    beta: float = 1.0,
    **loop: Unpack[Loop],
) -> Run:
    """DPO on comparisons of the base model's own answers: no reward model, and nothing sampled.

    Raises: ValueError for a count below 1 or beta not positive.
    Source: Rafailov et al. 2023, section 4.
    """
    check_counts(batch_size=batch_size)
    device = comparisons.prompts.device
    n = len(comparisons.prompts)

    def losses(policy: Transformer, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            rows = torch.randint(n, (batch_size,), generator=generator, device=device)
            prompts, chosen, rejected = (x[rows] for x in comparisons)
            new = (_log_probabilities(policy, prompts, y).sum(-1) for y in (chosen, rejected))
            with torch.no_grad():
                ref = [_log_probabilities(base, prompts, y).sum(-1) for y in (chosen, rejected)]
            yield dpo_loss(*new, *ref, beta=beta)

    return _run(base, held_out, losses, lr=lr, **loop)
