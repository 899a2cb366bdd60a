"""Optimisers, learning rates and clipping: how a gradient becomes a step.

theta are the parameters, g their gradient, gamma the learning rate, lambda the weight decay.
The explicit path shows the formula, one parameter at a time; the fused path makes one pass over memory.
"""

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmr_ref.attention import Implementation, require_implementation

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]  # or groups: {"params": [...], "lr": ...}


class _Optimizer(torch.optim.Optimizer, ABC):
    """What SGD and AdamW share: checks, the walk over the groups, saved state."""

    # Options of torch's optimisers that have one value here; a loaded state may say no other.
    _fixed: ClassVar[dict[str, Any]]

    def __init__(
        self, params: Parameters, defaults: dict[str, Any], implementation: Implementation
    ) -> None:
        require_implementation(implementation)
        # "fused" is torch's name too, so that its optimisers read our state and we read theirs.
        super().__init__(params, {**defaults, "fused": implementation == "fused"})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. Raises: ValueError for a setting out of range."""
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """State of this class or of torch's namesake; `implementation` stays as it is here.

        Raises: ValueError for a state that another formula left (maximize, amsgrad, dampening).
        """
        for group, (name, value) in itertools.product(
            state_dict["param_groups"], self._fixed.items()
        ):
            if group.get(name, value) != value:
                raise ValueError(
                    f"cannot continue a state with {name} = {group[name]}: "
                    f"{type(self).__name__} has {name} = {value}"
                )
        fused = [group["fused"] for group in self.param_groups]
        super().load_state_dict(copy.deepcopy(state_dict))  # torch's would share its tensors
        for group, ours in zip(self.param_groups, fused, strict=True):
            group["fused"] = ours

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient; `closure` computes the loss anew first.

        Raises: TypeError for a sparse or complex gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.layout != torch.strided or not p.is_floating_point():
                    raise TypeError(
                        f"gradients must be dense and real, got {p.grad.layout} of {p.grad.dtype}"
                    )
                state = self._state(group, p)
                # The fused kernels read memory in order and would mix up elements otherwise.
                in_order = all(x.stride() == p.stride() for x in (p.grad, *state))
                fused = group["fused"] and in_order and self._has_kernel(p)
                alike.setdefault((fused, p.device, p.dtype), []).append(p)
            for (fused, _, _), parameters in alike.items():
                (self._fused if fused else self._explicit)(group, parameters)
        return loss

    def _check(self, group: dict[str, Any]) -> None:
        _require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        _require(group["weight_decay"] >= 0, "weight_decay", group["weight_decay"], "at least 0")

    @abstractmethod
    def _state(self, group: dict[str, Any], p: Tensor) -> list[Tensor]:
        """The tensors that follow p from step to step, made when it first has a gradient."""

    def _has_kernel(self, p: Tensor) -> bool:
        """Whether torch's fused kernel is right for p."""
        return True

    @abstractmethod
    def _explicit(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """The formula, one parameter at a time."""

    @abstractmethod
    def _fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """The same in one pass over each parameter, its gradient and its state."""


class SGD(_Optimizer):
    """theta <- theta - gamma g, with momentum mu, Nesterov's look ahead, and decay into g.

    g <- g + lambda theta; b <- mu b + g; the step is b, or g + mu b with Nesterov, or g if mu = 0.
    State: `momentum_buffer` in the parameter's dtype. Named as in torch.optim.SGD, dampening 0.
    Raises: ValueError for a setting out of range, or Nesterov without momentum.
    Source: L2 "Backprop: compute new weights"; Sutskever et al. 2013, equations 3 and 4.
    """

    _fixed: ClassVar = {"maximize": False, "dampening": 0}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        implementation: Implementation = "fused",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": 0,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults, implementation)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _require(0 <= group["momentum"] < 1, "momentum", group["momentum"], "in [0, 1)")
        if group["nesterov"] and group["momentum"] == 0:
            raise ValueError("nesterov looks ahead along the momentum, got momentum = 0")

    def _state(self, group: dict[str, Any], p: Tensor) -> list[Tensor]:
        if not group["momentum"]:
            return []
        state = self.state[p]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p)
        return [state["momentum_buffer"]]

    def _has_kernel(self, p: Tensor) -> bool:
        # torch 2.13 has AdamW's for all, but none of SGD's for shards (DTensor), and the CPU's leaves
        # 16-bit parameters where they are (pytorch issue 191763).
        return not hasattr(p, "to_local") and p.dtype.itemsize >= 4

    def _explicit(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        lr, mu, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        for p, g in zip(parameters, _gradients(parameters), strict=True):
            theta, g = _in_32_bits(p), _in_32_bits(g)
            g = g + weight_decay * theta
            if mu:
                buffer = self.state[p]["momentum_buffer"]
                b = _in_32_bits(buffer).mul_(mu).add_(g)
                buffer.copy_(b)
                g = g + mu * b if group["nesterov"] else b
            p.copy_(theta - lr * g)

    def _fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        mu = group["momentum"]
        torch._fused_sgd_(
            parameters,
            _gradients(parameters),
            [self.state[p]["momentum_buffer"] for p in parameters] if mu else [],
            weight_decay=group["weight_decay"],
            momentum=mu,
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,  # a buffer of zeros needs no special first step
        )


class AdamW(_Optimizer):
    """Adam with decoupled weight decay: the decay first, then the step.

    theta <- theta - gamma lambda theta; m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2;
    theta <- theta - gamma m' / (sqrt(v') + eps), where m' = m / (1 - beta1^t), v' = v / (1 - beta2^t)
    undo that m and v began at zero.
    State: `exp_avg` (m) and `exp_avg_sq` (v) in the parameter's dtype; `step` (t), a float32 scalar
    beside the parameter. Named as in torch.optim.AdamW.
    Raises: ValueError for a setting out of range.
    Source: Loshchilov and Hutter 2019, algorithm 2; Kingma and Ba 2015, algorithm 1.
    """

    _fixed: ClassVar = {"maximize": False, "amsgrad": False, "decoupled_weight_decay": True}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        implementation: Implementation = "fused",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, implementation)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            # torch leaves it on the CPU where its own fused kernel was not used.
            state["step"] = state["step"].to(p.device)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        in_range = all(0 <= beta < 1 for beta in group["betas"])
        _require(in_range and len(group["betas"]) == 2, "betas", group["betas"], "two in [0, 1)")

    def _state(self, group: dict[str, Any], p: Tensor) -> list[Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        return [state["exp_avg"], state["exp_avg_sq"]]

    def _explicit(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        for p, g in zip(parameters, _gradients(parameters), strict=True):
            state = self.state[p]
            state["step"] += 1
            t = state["step"].item()
            theta, g = _in_32_bits(p), _in_32_bits(g)
            theta.mul_(1 - lr * group["weight_decay"])
            m = _in_32_bits(state["exp_avg"]).mul_(beta1).add_(g, alpha=1 - beta1)
            v = _in_32_bits(state["exp_avg_sq"]).mul_(beta2).addcmul_(g, g, value=1 - beta2)
            denominator = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
            theta.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))
            # For 32 and 64 bits these are the same tensors; 16-bit ones are rounded once, here.
            p.copy_(theta)
            state["exp_avg"].copy_(m)
            state["exp_avg_sq"].copy_(v)

    def _fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in parameters]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            parameters,
            _gradients(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # AMSGrad's maxima
            steps,
            amsgrad=False,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: matrices decay, gains and biases (below 2 dimensions) do not.

    Frozen parameters are in neither, tied ones are in once; the order is that of `model`.
    Raises: ValueError for a negative weight_decay.
    Source: Radford et al. 2018, section 4.1; Brown et al. 2020, appendix B.
    """
    _require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Float[Tensor, ""]:
    """Shrink all gradients together, in place, until their norm is at most max_norm.

    Out: the norm of all gradients as one vector before clipping, at least float32, zero if there
    are none. If it is inf or nan no direction is left to keep, so no gradient is changed.
    Raises: ValueError for a max_norm that is not positive (inf measures only).
    Source: Pascanu et al. 2013, algorithm 1.
    """
    _require(max_norm > 0, "max_norm", max_norm, "positive")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    alike: dict[Any, list[Tensor]] = {}
    for g in gradients:
        alike.setdefault((g.device, g.dtype), []).append(g)
    norms = [
        norm
        for (_, dtype), group in alike.items()
        for norm in torch._foreach_norm(group, 2, torch.promote_types(dtype, torch.float32))
    ]
    norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()  # gradients in shards: the norm over all of them
    # No branch on the norm: on a GPU that would wait for it. The 1e-6 is torch's.
    factor = torch.where(norm.isfinite(), max_norm / (norm + 1e-6), 1.0).clamp(max=1.0)
    for (device, _), group in alike.items():
        torch._foreach_mul_(group, factor.to(device))
    return norm


def constant_schedule(step: int, *, max_lr: float, warmup_steps: int = 0) -> float:
    """max_lr, after a straight line up to it from zero; `step` is the number of steps before.

    Raises: ValueError for a negative argument.
    Source: Goyal et al. 2017, section 2.2.
    """
    _check_schedule(step, max_lr, warmup_steps)
    return max_lr * min(1.0, step / warmup_steps) if warmup_steps else max_lr


def inverse_sqrt_schedule(step: int, *, max_lr: float, warmup_steps: int) -> float:
    """Straight up to max_lr at warmup_steps, then down as 1 / sqrt(step).

    Raises: ValueError for a negative argument, or no warm-up: it sets the scale of the descent.
    Source: Vaswani et al. 2017, equation 3, where max_lr = 1 / sqrt(d_model warmup_steps).
    """
    _check_schedule(step, max_lr, warmup_steps)
    _require(warmup_steps >= 1, "warmup_steps", warmup_steps, "at least 1")
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    return max_lr * math.sqrt(warmup_steps / step)


def cosine_schedule(
    step: int, *, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """Straight up to max_lr at warmup_steps, half a cosine down to min_lr at total_steps, then min_lr.

    Raises: ValueError for a negative argument, min_lr above max_lr, or a warm-up longer than all.
    Source: Loshchilov and Hutter 2017, equation 5; Brown et al. 2020, appendix B.
    """
    _check_schedule(step, max_lr, warmup_steps)
    _require(0 <= min_lr <= max_lr, "min_lr", min_lr, f"in 0..max_lr = {max_lr}")
    _require(total_steps >= warmup_steps, "total_steps", total_steps, f"at least {warmup_steps = }")
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def _in_32_bits(x: Tensor) -> Tensor:
    """x itself, or a float32 copy of 16 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _check_schedule(step: int, max_lr: float, warmup_steps: int) -> None:
    for name, value in {"step": step, "max_lr": max_lr, "warmup_steps": warmup_steps}.items():
        _require(value >= 0, name, value, "at least 0")


def _require(fulfilled: bool, name: str, value: object, expected: str) -> None:
    if not fulfilled:
        raise ValueError(f"{name} must be {expected}, got {value}")
