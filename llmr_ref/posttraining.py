"""Post-training: from a model that continues text to one that gives the answer wanted.

pi is the policy (the model in training), ref the model it started from, r a reward, A an advantage.
Shapes: B sequences of T tokens, V tokens in the vocabulary, G answers to one prompt. Targets are as in
`training`: one a position, IGNORE where the position predicts no token of an answer.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmr_ref.data import IGNORE, PackedBatch, pack
from llmr_ref.masks import require_boolean
from llmr_ref.training import token_losses
from llmr_ref.transformer import Transformer

Task = Literal["classification", "entailment", "similarity", "multiple choice"]

# --- inputs for fine-tuning ---------------------------------------------------------------------


def task_sequences(
    task: Task, *texts: Sequence[int], start: int, delimiter: int, extract: int
) -> list[list[int]]:
    """The token sequences whose last hidden vectors a linear layer reads to solve the task.

    classification: one text. entailment: premise, hypothesis. similarity: two texts, in both orders,
    whose hidden vectors are added. multiple choice: context, then every answer; a sequence each.
    Raises: ValueError for an unknown task, or a number of texts that does not fit it.
    Source: L4 "Input transformations for fine-tuning"; Radford et al. 2018, figure 1.
    """
    n = len(texts)
    wanted = {
        "classification": (n == 1, "1 text"),
        "entailment": (n == 2, "2 texts"),
        "similarity": (n == 2, "2 texts"),
        "multiple choice": (n >= 3, "a context and at least 2 answers"),
    }
    if task not in wanted:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(get_args(Task))}")
    fits, expected = wanted[task]
    if not fits:
        raise ValueError(f"{task} takes {expected}, got {n}")
    first, *others = texts

    def join(a: Sequence[int], b: Sequence[int]) -> list[int]:
        return [start, *a, delimiter, *b, extract]

    if task == "classification":
        return [[start, *first, extract]]
    if task == "similarity":
        return [join(first, others[0]), join(others[0], first)]
    return [join(first, other) for other in others]


# --- supervised fine-tuning ---------------------------------------------------------------------


def answer_mask(
    prompt_lengths: Int[Tensor, "..."], lengths: Int[Tensor, "..."], n: int
) -> Bool[Tensor, "... T"]:
    """Which of n tokens belong to the answer: from prompt_length on, below length; padding follows.

    Raises: ValueError for shapes that differ, or unless 0 <= prompt_lengths <= lengths <= n.
    """
    if prompt_lengths.shape != lengths.shape:
        raise ValueError(
            f"need a prompt length for every length {tuple(lengths.shape)}, got "
            f"{tuple(prompt_lengths.shape)}"
        )
    ordered = (prompt_lengths >= 0) & (prompt_lengths <= lengths) & (lengths <= n)
    if not ordered.all():
        raise ValueError(
            f"need 0 <= prompt_lengths <= lengths <= n = {n}, got prompt_lengths = "
            f"{prompt_lengths.tolist()} and lengths = {lengths.tolist()}"
        )
    at = torch.arange(n, device=lengths.device)
    return (at >= prompt_lengths[..., None]) & (at < lengths[..., None])


def answer_targets(
    tokens: Int[Tensor, "... T"], mask: Bool[Tensor, "... T"]
) -> Int[Tensor, "... T-1"]:
    """What the inputs tokens[..., :-1] are to predict: the next token if the mask says it is an answer's.

    Raises: ValueError for a mask of another shape; TypeError for one that is not boolean.
    Source: L4 "Supervised finetuning"; Touvron et al. 2023 (Llama 2), section 3.1.
    """
    require_boolean(mask)
    if mask.shape != tokens.shape:
        raise ValueError(
            f"the mask must be {tuple(tokens.shape)}, as the tokens, got {tuple(mask.shape)}"
        )
    return tokens[..., 1:].masked_fill(~mask[..., 1:], IGNORE)


def pack_examples(
    examples: Iterable[tuple[Sequence[int], Sequence[int]]],
    length: int,
    *,
    device: torch.device | str | None = None,
) -> PackedBatch:
    """Prompt and answer end to end, whole examples only, in rows of `length`; targets in answers only.

    With `masks.document_mask` of its document ids, and its positions, the loss is the unpacked one.
    Raises: ValueError for no examples, an empty prompt or answer, or an example of more than
    length + 1 tokens (the last is only predicted).
    """
    rows: list[list[tuple[Sequence[int], Sequence[int]]]] = []
    room = 0
    for prompt, answer in examples:
        size = len(prompt) + len(answer)
        if not len(prompt) or not len(answer):
            raise ValueError(
                f"need a prompt and an answer, got {len(prompt)} and {len(answer)} tokens"
            )
        if size > length + 1:
            raise ValueError(f"an example of {size} tokens does not fit length = {length}; cut it")
        if size > room:  # the row is full
            rows.append([])
            room = length + 1
        rows[-1].append((prompt, answer))
        room -= size
    if not rows:
        raise ValueError("examples must hold at least one example, got none")
    packed = []
    for row in rows:
        batch = pack([[*prompt, *answer] for prompt, answer in row], length, eos=None)
        kinds = pack(
            [[0] * len(prompt) + [1] * len(answer) for prompt, answer in row], length, eos=None
        )
        packed.append(batch._replace(targets=batch.targets.masked_fill(kinds.targets != 1, IGNORE)))
    return PackedBatch(*(torch.cat(parts).to(device) for parts in zip(*packed, strict=True)))


# --- reward model -------------------------------------------------------------------------------


class ScalarModel(nn.Module):
    """A copy of a language model that says one number a position in place of logits.

    At an answer's last token it is a reward model's r(x, y); at every token a critic's V(s_t). The
    new head begins at zero.
    State: `body`, a `Transformer` whose `lm_head` is (1, d_model) with a bias.
    Source: L5 "Sequence classification" (the last token's hidden vector); Ouyang et al. 2022, section 3.5.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.body = copy.deepcopy(model)
        old = model.lm_head.weight
        self.body.lm_head = nn.Linear(old.shape[-1], 1, device=old.device, dtype=old.dtype)
        nn.init.zeros_(self.body.lm_head.weight)
        nn.init.zeros_(self.body.lm_head.bias)

    def forward(self, tokens: Int[Tensor, "... T"]) -> Float[Tensor, "... T"]:
        """V(s_t): one number after each token. Raises: as `Transformer.forward`."""
        return self.body(tokens).squeeze(-1)

    def reward(
        self, tokens: Int[Tensor, "... T"], lengths: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """r(x, y): the number at each sequence's last token; `lengths` counts prompt and answer.

        Raises: ValueError for a length outside 1..T; as `Transformer.forward`.
        """
        T = tokens.shape[-1]
        if ((lengths < 1) | (lengths > T)).any():
            raise ValueError(f"lengths must lie in 1..T = {T}, got {lengths.tolist()}")
        return self(tokens).gather(-1, lengths[..., None] - 1).squeeze(-1)


def preference_probability(
    a: Float[Tensor, "..."], b: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """sigma(r_a - r_b): how likely the answer with reward a is preferred to the one with reward b.

    Raises: ValueError for shapes that differ; TypeError for rewards that are not floating point.
    Source: Bradley and Terry 1952; Rafailov et al. 2023, equation 1.
    """
    require_alike(a=a, b=b)
    return (a - b).sigmoid()


def preference_loss(
    chosen: Float[Tensor, "..."], rejected: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """-mean log sigma(r_chosen - r_rejected), at least float32.

    Raises: ValueError for shapes that differ; TypeError for rewards that are not floating point.
    Source: L4 "Collect comparison data and train a reward model"; Ouyang et al. 2022, equation 1.
    """
    require_alike(chosen=chosen, rejected=rejected)
    return -F.logsigmoid(at_least_32_bits(chosen) - at_least_32_bits(rejected)).mean()


# --- log-probabilities --------------------------------------------------------------------------


def token_log_probabilities(
    logits: Float[Tensor, "... T V"], targets: Int[Tensor, "... T"]
) -> Float[Tensor, "... T"]:
    """log pi(a_t | s_t) of every target, zero where it is IGNORE; at least float32.

    Raises: as `training.token_losses`.
    """
    return -token_losses(logits, targets)


def sequence_log_probabilities(
    logits: Float[Tensor, "... T V"], targets: Int[Tensor, "... T"]
) -> Float[Tensor, "..."]:
    """log pi(y | x) = sum_t log pi(y_t | x, y_<t), at least float32.

    Raises: as `training.token_losses`.
    Source: L1 "Chain rule"; Rafailov et al. 2023, section 3.
    """
    return token_log_probabilities(logits, targets).sum(-1)


# --- preferences without a reward model ---------------------------------------------------------


def implicit_rewards(
    log_probabilities: Float[Tensor, "..."],
    ref_log_probabilities: Float[Tensor, "..."],
    *,
    beta: float,
) -> Float[Tensor, "..."]:
    """beta log(pi(y|x) / ref(y|x)): the reward for which pi is optimal, up to a constant of x.

    Raises: ValueError for shapes that differ or beta not positive; TypeError for other than floats.
    Source: Rafailov et al. 2023 (DPO), equation 5.
    """
    require_range(beta > 0, "beta", beta, "positive")
    new, ref = log_probabilities, ref_log_probabilities
    require_alike(log_probabilities=new, ref_log_probabilities=ref)
    return (beta * (at_least_32_bits(new) - at_least_32_bits(ref).detach())).to(new.dtype)


def dpo_loss(
    chosen: Float[Tensor, "..."],
    rejected: Float[Tensor, "..."],
    ref_chosen: Float[Tensor, "..."],
    ref_rejected: Float[Tensor, "..."],
    *,
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """The preference loss of the policy's own implicit rewards, from sequence log-probabilities.

    Its gradient weighs log pi(chosen) - log pi(rejected) by beta sigma(r_rejected - r_chosen).
    Raises: as `implicit_rewards` and `preference_loss`.
    Source: Rafailov et al. 2023 (DPO), equation 7.
    """
    return preference_loss(
        implicit_rewards(chosen, ref_chosen, beta=beta),
        implicit_rewards(rejected, ref_rejected, beta=beta),
    )


def optimal_policy(
    ref_log_probabilities: Float[Tensor, "... Y"], rewards: Float[Tensor, "... Y"], *, beta: float
) -> Float[Tensor, "... Y"]:
    """log pi*(y) for pi* = ref exp(r / beta) / Z over all Y answers: argmax of E[r] - beta KL(pi || ref).

    Raises: ValueError for shapes that differ or beta not positive; TypeError for other than floats.
    Source: Rafailov et al. 2023 (DPO), equation 4; Ziegler et al. 2019.
    """
    require_range(beta > 0, "beta", beta, "positive")
    ref = ref_log_probabilities
    require_alike(ref_log_probabilities=ref, rewards=rewards)
    return (at_least_32_bits(ref) + at_least_32_bits(rewards) / beta).log_softmax(-1).to(ref.dtype)


# --- what every loss here checks and keeps ------------------------------------------------------


def require_alike(mask: Tensor | None = None, **floats: Tensor) -> None:
    """Raise TypeError unless all are floating point (the mask: boolean), ValueError unless of one shape."""
    for name, x in floats.items():
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}; convert with .float()")
    if mask is not None:
        require_boolean(mask)
        floats["mask"] = mask
    if len({x.shape for x in floats.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in floats.items())
        raise ValueError(f"shapes must agree, got {shapes}")


def require_range(fulfilled: bool, name: str, value: float, expected: str) -> None:
    """Raise ValueError for a setting out of range."""
    if not fulfilled:
        raise ValueError(f"{name} must be {expected}, got {value}")


def at_least_32_bits(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x itself, or 16-bit floats in 32 bits: sums and ratios need them."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
