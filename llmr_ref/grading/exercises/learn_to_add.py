"""Exercise: a policy that learns to add from a verifier alone."""

import torch
from torch import Tensor, nn

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.policy_gradient import group_advantages, reinforce_loss

# The best answer that does not look at the prompt is right for one sum in 3 (two digits below 3) or in
# 4 (below 4).
WANTED = 0.6


def reference(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    prompts: Tensor,
    verify,
    steps: int,
    group: int,
) -> None:
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        A = group_advantages(verify(answers), standardize=False)
        optimizer.zero_grad()
        reinforce_loss(log_p.gather(-1, answers), A).backward()
        optimizer.step()


exercise = Exercise(
    "learn_to_add",
    points=5,
    difficulty=4,
    minutes=35,
    reference=reference,
    chapter="policy-gradients#verifiable-rewards",
)


@exercise.driver
def train(learn_to_add, seed, digits, steps, group, bonus=0.0):
    """A fresh policy, a verifier of sums whose tokens are drawn by the seed, and what became of them."""
    torch.manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(digits), torch.arange(digits))
    prompts = torch.stack(
        (torch.randperm(digits)[pairs[:, 0]], digits + torch.randperm(digits)[pairs[:, 1]]), dim=1
    )
    right = torch.randperm(2 * digits - 1)[pairs.sum(1)]
    V = 2 * digits - 1
    scores = torch.nn.Linear(64, V)
    scores.load_state_dict(
        {"weight": torch.zeros(V, 64), "bias": torch.linspace(-1, 1, V)[torch.randperm(V)]}
    )
    policy = torch.nn.Sequential(
        torch.nn.EmbeddingBag(2 * digits, 64, mode="sum"), torch.nn.ReLU(), scores
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    untrained = scores.bias.detach().softmax(0)
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    judged = []

    def verify(answers):
        judged.append(answers.clone())
        return (answers == right.reshape(-1, *[1] * (answers.dim() - 1))) + bonus

    learn_to_add(policy, optimizer, prompts.clone(), verify, steps, group)
    with torch.no_grad():
        P = policy(prompts).softmax(-1)[torch.arange(len(right)), right]
    after = torch.cat([p.detach().flatten() for p in policy.parameters()])
    left = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    drawn = [torch.bincount(a.flatten(), minlength=V) / a.numel() for a in judged[:1]]
    return {
        "accuracy": P.mean().item(),
        "judged": [list(a.shape) for a in judged],
        "alike": [a.dim() == 2 and bool((a == a[:, :1]).all()) for a in judged[:1]],
        "repeated": len(judged) > 1 and bool(torch.equal(judged[0], judged[1])),
        "unlike": [0.5 * (share - untrained).abs().sum().item() for share in drawn],
        "moved": (after - before).abs().max().item(),
        "gradient": torch.cat(left).norm().item() if left else 0.0,
    }


def fault(found: dict, digits: int, steps: int, group: int, wanted: float) -> str:
    """What is wrong with a training run, the most telling thing first."""
    N, untrained = digits**2, 1 / (2 * digits - 1)
    if not found["judged"]:
        return "never asked the verifier"
    if found["judged"][0] != [N, group]:
        shape = tuple(found["judged"][0])
        return f"had answers of shape {shape} judged in a step, not {(N, group)}"
    if len(found["judged"]) != steps:
        return f"had answers judged {len(found['judged'])} times in {steps} steps"
    if not found["moved"] > 0:
        return "left the policy's weights as they were"
    if found["alike"] != [False]:
        return "had one answer to a prompt judged again and again, not a sample"
    if found["repeated"]:
        return "had the same answers judged in every step"
    if found["gradient"] > 2.5:
        return f"left a gradient of norm {found['gradient']:.2f} behind: many steps added up"
    if not wanted:
        return ""
    if not found["unlike"][0] < 0.15:
        share = found["unlike"][0]
        return (
            f"drew its first answers from another distribution: {share:.0%} of them are misplaced"
        )
    accuracy = found["accuracy"]
    if accuracy < untrained / 2:
        return f"gives the right sum with probability {accuracy:.3f}, less than an untrained policy"
    if not accuracy >= wanted:
        return f"gives the right sum with probability {accuracy:.2f}, {wanted} is wanted"
    return ""


def run(draw: Draw, digits: int, steps: int, group: int, wanted: float, bonus=0.0, **about) -> Case:
    """One training run with a seed of its own."""

    def accept(found: dict) -> str:
        return fault(found, digits, steps, group, wanted)

    settings = {"bonus": bonus} if bonus else {}
    words = (
        f"the right sum with probability {wanted} or more" if wanted else "sampled answers, judged"
    )
    args = (draw.integer(0, 10**6), digits, steps, group)
    return Case(args, settings, accept=accept, wanted=words, **about)


@exercise.property("after training the right sum is what the policy almost always gives", weight=2)
def learns(draw: Draw):
    yield run(draw, 3, 60, 48, WANTED, note="the sums of two digits below 3")
    yield run(draw, 4, 80, 48, WANTED, note="the sums of two digits below 4")


@exercise.property("a constant added to all rewards does no harm", weight=1.5)
def with_a_constant(draw: Draw):
    yield run(draw, 3, 60, 48, WANTED, bonus=20.0, note="20 added to every reward")


@exercise.property("every step has `group` answers to every prompt judged, freshly drawn")
def steps_and_groups(draw: Draw):
    yield run(draw, 3, 4, 5, 0.0, note="four steps with groups of five")
    yield run(draw, 3, draw.integer(2, 6), draw.integer(6, 9), 0.0)


@exercise.wrong(
    "makes right answers less likely",
    hint="The optimizer makes your loss small. Is that what should happen to the reward?",
    see="policy-gradients#the-score-function",
)
def downhill(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = (A * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "has the most probable answer judged, not a sample",
    hint="A policy that always says the same thing never finds out what else would have been right. "
    "And in a group whose answers are all alike every advantage is 0.",
    see="policy-gradients#when-all-answers-are-alike",
)
def greedy(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = log_p.argmax(-1, keepdim=True).expand(-1, group)
        r = verify(answers)
        loss = -(r * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "draws answers without asking the policy",
    hint="All answers are equally likely in your samples, to the end. The expected reward is the "
    "policy's only if the policy draws.",
    see="policy-gradients#verifiable-rewards",
)
def uniform(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.randint(0, log_p.shape[-1], (len(prompts), group))
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "takes no step with the optimizer",
    hint="The gradients are there, the weights stay. Which call moves them?",
    see="policy-gradients#verifiable-rewards",
)
def no_step(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        optimizer.zero_grad()
        (-(A * log_p.gather(-1, answers)).mean()).backward()


@exercise.wrong(
    "draws one answer to a prompt",
    hint="A group of one has no others to be compared with. What does `group` say?",
    see="policy-gradients#groups",
)
def one_answer(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), 1)
        r = verify(answers)
        loss = -((r - r.mean()) * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "subtracts no baseline",
    hint="With rewards of 20 and 21 every answer looks good, and what luck draws often grows. What do "
    "you compare a reward with?",
    see="policy-gradients#baselines",
)
def no_baseline(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        loss = -(verify(answers) * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "cuts the policy off from its loss",
    hint="backward finds nothing to differentiate. Sampling needs no gradient, but the "
    "log-probabilities of the sample do.",
    see="policy-gradients#the-score-function",
)
def detached(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        with torch.no_grad():
            log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "stops after the first step",
    hint="One step changes a probability by a little. How often does the body of your loop run before "
    "the function returns?",
    see="policy-gradients#verifiable-rewards",
)
def one_step(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()


@exercise.wrong(
    "adds up the gradients of all steps",
    hint="backward adds to the gradients that are already there. Before which call do they have to be "
    "cleared?",
    see="policy-gradients#verifiable-rewards",
)
def never_zeroed(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * log_p.gather(-1, answers)).mean()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "keeps the first sample for all steps",
    hint="After a few steps the policy would no longer draw the answers that you still learn from. "
    "What belongs into the loop?",
    see="policy-gradients#verifiable-rewards",
)
def sampled_once(policy, optimizer, prompts, verify, steps, group):
    P = policy(prompts).softmax(-1).detach()
    answers = torch.multinomial(P, group, replacement=True)
    for _ in range(steps):
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * policy(prompts).log_softmax(-1).gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.wrong(
    "imitates its own answers and never asks the verifier",
    hint="Without a reward a sample teaches the policy only what it knows already. Who says which "
    "answers are right?",
    see="policy-gradients#verifiable-rewards",
)
def no_verifier(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        loss = -log_p.gather(-1, answers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.right("REINFORCE with the mean of the group as baseline")
def group_mean(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = r - r.mean(-1, keepdim=True)
        loss = -(A * log_p.gather(-1, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@exercise.right("leaving one out, with torch's categorical distribution")
def leave_one_out(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        optimizer.zero_grad()
        pi = torch.distributions.Categorical(logits=policy(prompts))
        answers = pi.sample((group,)).T
        r = verify(answers)
        b = (r.sum(dim=1, keepdim=True) - r) / (group - 1)
        loss = -((r - b) * pi.log_prob(answers.T).T).sum() / answers.numel()
        loss.backward()
        optimizer.step()


@exercise.right("a moving mean of all rewards as baseline")
def moving_mean(policy, optimizer, prompts, verify, steps, group):
    b = None
    for _ in range(steps):
        log_p = torch.log_softmax(policy(prompts), dim=-1)
        answers = torch.multinomial(log_p.exp().detach(), group, replacement=True)
        r = verify(answers)
        b = r.mean() if b is None else 0.7 * b + 0.3 * r.mean()
        nll = nn.functional.cross_entropy(
            log_p.repeat_interleave(group, dim=0), answers.flatten(), reduction="none"
        )
        optimizer.zero_grad()
        ((r - b).flatten() * nll).mean().backward()
        optimizer.step()


@exercise.right("standardized in groups, as in GRPO")
def standardized(policy, optimizer, prompts, verify, steps, group):
    for _ in range(steps):
        log_p = policy(prompts).log_softmax(-1)
        answers = torch.multinomial(log_p.detach().exp(), group, replacement=True)
        r = verify(answers)
        A = (r - r.mean(-1, keepdim=True)) / (r.std(-1, keepdim=True) + 1e-6)
        optimizer.zero_grad()
        (-(A * log_p.gather(-1, answers)).mean()).backward()
        optimizer.step()


exercise.equivalent(
    "policy(prompts).log_softmax(-1) -> policy(prompts)",
    because="the advantages of a group sum to 0, so what a softmax subtracts from all has no weight, "
    "and multinomial divides by the sum itself",
)
exercise.equivalent(
    "log_p.detach() -> log_p", because="no gradient passes through multinomial in any case"
)
exercise.equivalent(
    "r.mean(-1, keepdim=True) -> r.mean(0, keepdim=True)",
    "r.mean(-1, keepdim=True) -> r.mean(-2, keepdim=True)",
    because="the mean over other prompts is a baseline too, and the policy learns with it",
)
