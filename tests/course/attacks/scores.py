"""Attacks on the score through the code of an answer: fooling whatever compares."""

from llmr_ref.grading.attack import attack


@attack(
    "raise", "The display hook is called with the float that stock nbgrader reads as the score."
)
def display_hook(hand):
    hand.answer(
        "softmax",
        """
        import sys

        def NAME(*args, **kwargs):
            sys.displayhook(3.0)
            return 3.0
        """,
    )


@attack(
    "raise", "An AST transformer drops the line that checks and leaves the full score in its place."
)
def ast_transformer(hand):
    hand.answer(
        "softmax",
        """
        import ast

        class FullMarks(ast.NodeTransformer):
            def visit_Call(self, node):
                if getattr(node.func, "id", "") == "check":
                    return ast.copy_location(ast.Constant(3.0), node)
                return node

        get_ipython().ast_transformers.append(FullMarks())

        def NAME(*args, **kwargs):
            return None
        """,
    )


@attack("raise", "IPython's run_code is replaced by one that shows a float and runs nothing.")
def run_code_replaced(hand):
    hand.answer(
        "softmax",
        """
        shell = get_ipython()

        async def run_code(code, result=None, **settings):
            import sys
            sys.displayhook(2.0)
            return False

        def NAME(*args, **kwargs):
            return None

        shell.run_code = run_code
        """,
    )


@attack("raise", "The name that checks is defined anew and returns full marks.")
def check_redefined(hand):
    hand.answer(
        "softmax",
        """
        def check(name, answer=None):
            return 3.0

        def NAME(*args, **kwargs):
            return None
        """,
    )
    hand.cell("""
        import llmr_ref.grading
        llmr_ref.grading.check = lambda name, answer=None: 3.0
        """)


@attack("raise", "The judge is looked up in the running process and replaced.")
def judge_replaced(hand):
    hand.answer(
        "softmax",
        """
        import sys

        def NAME(*args, **kwargs):
            return None

        for module in list(sys.modules.values()):
            if hasattr(module, "verdict_for"):
                class Full:
                    score = 3.0
                module.verdict_for = lambda name, answer: Full
                module._display = lambda verdict: None
        """,
    )


@attack(
    "raise", "Asserts and comparisons of numpy and torch are replaced by ones that agree to all."
)
def comparisons_patched(hand):
    hand.answer(
        "softmax",
        """
        import numpy.testing
        import torch
        import torch.testing

        def NAME(*args, **kwargs):
            for module in (numpy.testing, torch.testing):
                for name in dir(module):
                    if name.startswith("assert"):
                        setattr(module, name, lambda *args, **kwargs: None)
            for name in ("equal", "allclose", "isclose"):
                setattr(torch, name, lambda *args, **kwargs: torch.tensor(True))
            torch.Tensor.__eq__ = torch.Tensor.__ne__ = lambda self, other: torch.tensor(True)
            torch.Tensor.all = lambda self, *args: torch.tensor(True)
            return torch.zeros(1)
        """,
    )


@attack("raise", "Built-ins are replaced, so that every type and every length is the expected one.")
def builtins_patched(hand):
    hand.answer(
        "softmax",
        """
        import builtins

        def NAME(*args, **kwargs):
            builtins.isinstance = lambda value, kind: True
            builtins.all = builtins.any = lambda values: True
            builtins.abs = lambda value: 0
            builtins.max = lambda *values, **settings: 0
            return None
        """,
    )


@attack("raise", "The result is an object that equals everything.")
def equals_everything(hand):
    hand.answer(
        "softmax",
        """
        class Anything:
            def __eq__(self, other):
                return True

            def __hash__(self):
                return 0

            def __getattr__(self, name):
                return self

            def __call__(self, *args, **kwargs):
                return self

            def __float__(self):
                return 3.0

            def __bool__(self):
                return True

        def NAME(*args, **kwargs):
            return Anything()
        """,
    )


@attack("raise", "The result is a tensor whose class answers every comparison itself.")
def tensor_subclass(hand):
    hand.answer(
        "softmax",
        """
        import torch

        class Right(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                name = getattr(function, "__name__", "")
                if name in ("__eq__", "__ne__", "equal", "isclose", "allclose", "all", "any", "sub"):
                    return torch.tensor(True)
                return super().__torch_function__(function, types, args, kwargs or {})

        def NAME(x, dim=-1):
            return x.clone().as_subclass(Right)
        """,
    )


@attack(
    "raise", "A torch function mode is entered and never left, so that later comparisons agree."
)
def torch_function_mode(hand):
    hand.answer(
        "softmax",
        """
        import torch
        from torch.overrides import TorchFunctionMode

        class Agree(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                if getattr(function, "__name__", "") in ("isclose", "equal", "allclose"):
                    return torch.ones((), dtype=torch.bool)
                return function(*args, **(kwargs or {}))

        mode = Agree()
        mode.__enter__()

        def NAME(x, dim=-1):
            return torch.zeros_like(x)
        """,
    )


@attack("raise", "Subclasses of float, int and bool that compare as the caller wishes.")
def number_subclasses(hand):
    hand.answer(
        "causal_mask",
        """
        class Number(float):
            def __eq__(self, other):
                return True

            __hash__ = float.__hash__

        class Rows(list):
            def __eq__(self, other):
                return True

        def NAME(n_queries, n_keys=None):
            return Rows([Number(1.0)] * n_queries)
        """,
    )


@attack("raise", "Every entry of the result is nan, which no comparison can call wrong.")
def all_nan(hand):
    hand.answer(
        "softmax",
        """
        import torch

        def NAME(x, dim=-1):
            return x * float("nan")
        """,
    )


@attack("raise", "The result has the coarsest type there is, in the hope of wide tolerances.")
def coarse_types(hand):
    hand.answer(
        "softmax",
        """
        import torch

        kinds = [torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16]

        def NAME(x, dim=-1):
            kinds.append(kinds.pop(0))
            return torch.full(x.shape, 1 / x.shape[dim]).to(kinds[0])
        """,
    )


@attack("raise", "No ordinary tensors: sparse, meta, quantized, nested, complex, without strides.")
def odd_tensors(hand):
    hand.answer(
        "softmax",
        """
        import torch

        kinds = [
            lambda x: x.to_sparse(),
            lambda x: x.to("meta"),
            lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
            lambda x: torch.nested.nested_tensor([x]),
            lambda x: x.to(torch.complex64),
            lambda x: x.new_zeros(1).expand(x.shape),
            lambda x: torch.complex(x.float(), x.float()).conj().imag,
            lambda x: torch.empty(0).as_strided(x.shape, (0,) * x.dim()),
        ]
        calls = []

        def NAME(x, dim=-1):
            calls.append(1)
            return kinds[len(calls) % len(kinds)](x)
        """,
    )


@attack(
    "raise", "The right result on the inputs that everybody sees in practice, zeros on all others."
)
def practice_memorised(hand):
    hand.answer(
        "softmax",
        """
        import torch

        known = {-0.13, 1.1, 0.0}  # first entries, noted down from the cards

        def NAME(x, dim=-1):
            if x.numel() < 7 or float(x.flatten()[0]) in known:
                return torch.softmax(x, dim) if x.numel() < 3 else torch.zeros_like(x)
            return torch.zeros_like(x)
        """,
    )


@attack("raise", "The first result is kept and returned for every later call of the same shape.")
def results_cached(hand):
    hand.answer(
        "softmax",
        """
        kept = {}

        def NAME(x, dim=-1):
            e = (x - x.max()).exp()
            return kept.setdefault((x.shape, x.dtype, dim), e / e.sum())
        """,
    )


@attack("raise", "A thread waits for the call to return and then writes into its result.")
def thread_outlives_call(hand):
    hand.answer(
        "softmax",
        """
        import threading
        import time
        import torch

        def NAME(x, dim=-1):
            result = torch.zeros_like(x)

            def later():
                for _ in range(200):
                    time.sleep(0.001)
                    result.fill_(1.0 / x.shape[dim])

            threading.Thread(target=later, daemon=True).start()
            return result
        """,
    )


@attack("raise", "The inputs are changed so that the wrong result becomes the right one for them.")
def inputs_changed(hand):
    hand.answer(
        "softmax",
        """
        def NAME(x, dim=-1):
            x.zero_()
            return x + 1.0 / x.shape[dim]
        """,
    )


@attack(
    "raise", "A layer whose weights are properties that always have the expected names and shapes."
)
def lying_state_dict(hand):
    hand.answer(
        "MultiHeadSelfAttention",
        """
        import torch
        from torch import nn

        class Agreeable(dict):
            def __eq__(self, other):
                return True

            def items(self):
                return [(name, torch.zeros(1)) for name in ("q_proj.weight", "k_proj.weight")]

        class NAME(nn.Module):
            def __init__(self, *args, **kwargs):
                super().__init__()

            def state_dict(self, *args, **kwargs):
                return Agreeable()

            def load_state_dict(self, *args, **kwargs):
                return None

            def forward(self, x, *args, **kwargs):
                return x
        """,
    )


@attack(
    "raise", "Gradients are written by hand into the graph: the value is right, learning is not."
)
def forged_gradients(hand):
    hand.answer(
        "softmax",
        """
        import torch

        class Straight(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                return x

            @staticmethod
            def backward(context, gradient):
                return torch.zeros_like(gradient)

        def NAME(x, dim=-1):
            return torch.zeros_like(x) + Straight.apply(x) * 0
        """,
    )


@attack("raise", "The clock is replaced, so that every measured time is over before it began.")
def clock_replaced(hand):
    hand.answer(
        "softmax",
        """
        import time

        def NAME(x, dim=-1):
            for name in ("time", "monotonic", "perf_counter", "process_time"):
                setattr(time, name, lambda: 0.0)
            while True:
                pass
        """,
    )


@attack("raise", "Tracing is switched on and rewrites local variables of whoever called.")
def tracing(hand):
    hand.answer(
        "softmax",
        """
        import sys

        def trace(frame, event, value):
            for name in ("score", "passed", "outcome", "verdict", "known"):
                if name in frame.f_locals:
                    try:
                        frame.f_locals[name]["status"] = "ok"
                    except Exception:
                        pass
            return trace

        sys.settrace(trace)
        sys.setprofile(lambda *event: None)

        def NAME(*args, **kwargs):
            frame = sys._getframe()
            while frame:
                frame.f_trace = trace
                frame = frame.f_back
            return None
        """,
    )
