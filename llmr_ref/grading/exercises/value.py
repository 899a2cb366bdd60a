"""Exercise: a number that remembers how it was computed, and sends gradients back."""

import math

import torch

from llmr_ref import backprop
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.neuron_step import AUTOGRAD, RULE

exercise = Exercise(
    "Value",
    points=5,
    difficulty=4,
    minutes=45,
    reference=backprop.Value,
    chapter="backprop#a-graph-of-numbers",
    forbids=AUTOGRAD,
    rule=RULE,
)


@exercise.driver
def compute(Value, leaves, steps, repeat=1, backward=1):
    """Each step appends a value; numbers that are not whole are operands, whole ones are places."""
    values = [Value(x) for x in leaves]
    for a, operation, b in steps * repeat:
        left = values[a]
        right = values[b] if type(b) is int else b
        if operation == "+":
            values.append(left + right)
        elif operation == "*":
            values.append(left * right)
        elif operation == "**":
            values.append(left**right)
        else:
            values.append(left.exp())
    for _ in range(backward):
        values[-1].backward()
    return (
        torch.tensor([v.value for v in values], dtype=torch.float64),
        torch.tensor([v.gradient for v in values[: len(leaves)]], dtype=torch.float64),
    )


def numbers(draw: Draw, n: int) -> list[float]:
    """Positive, no two alike, none 1: no derivative is another one's by chance."""
    return (draw.normal(n, dtype=torch.float64).abs() * 0.2 + 1.3).add(
        torch.arange(n) * 0.37
    ).mul(100).round().div(100).tolist()  # fmt: skip


@exercise.property("each operation knows its value and its derivatives", weight=1.5)
def operations(draw: Draw):
    yield Case((numbers(draw, 2), [(0, "+", 1)]), note="a sum")
    yield Case((numbers(draw, 2), [(0, "*", 1)]), note="a product")
    for n in (3.0, float(draw.integer(4, 6)), -1.0, 0.5):
        yield Case((numbers(draw, 1), [(0, "**", n)]), note="a power")
    yield Case((numbers(draw, 1), [(0, "exp", None)]), note="an exponential")


@exercise.property("a chain multiplies what it meets on the way back", weight=1.5)
def chains(draw: Draw):
    # w1 x1 + w2 x2 + b, minus y_true, squared
    neuron = [(0, "*", 2), (1, "*", 3), (-2, "+", -1), (-1, "+", 4), (-1, "+", 5), (-1, "**", 2.0)]
    yield Case(([2.0, -1.0, 4.0, -3.0, 1.0, -10.0], neuron), note="the lecture's neuron")
    yield Case((numbers(draw, 6), neuron), note="another neuron")
    yield Case((numbers(draw, 2), [(0, "*", 1), (-1, "exp", None), (-1, "**", -1.0)]))
    yield Case((numbers(draw, 1), []), note="a value that was not computed from others")


@exercise.property("a value that is used several times adds up what comes back", weight=2)
def shared(draw: Draw):
    yield Case((numbers(draw, 1), [(0, "+", 0)]), note="a + a")
    yield Case((numbers(draw, 1), [(0, "*", 0)]), note="a * a")
    yield Case((numbers(draw, 2), [(0, "*", 1), (-1, "+", 0)]), note="a leaf used in two places")
    # h = a b, u = h c, L = h + u and L = u + h: h is complete only after both of its uses.
    first = [(0, "*", 1), (3, "*", 2), (3, "+", 4)]
    yield Case((numbers(draw, 3), first), note="an intermediate value used at two depths")
    second = [(0, "*", 1), (3, "*", 2), (4, "+", 3)]
    yield Case((numbers(draw, 3), second), note="an intermediate value used at two depths")
    long = [(0, "*", 1), (2, "exp", None), (3, "*", 2), (4, "+", 2), (2, "*", 5), (5, "*", 6)]
    yield Case((numbers(draw, 2), long), note="paths of many lengths")


@exercise.property("plain numbers may stand on the right")
def plain(draw: Draw):
    yield Case((numbers(draw, 1), [(0, "+", 2.5)]), note="a + 2.5")
    yield Case((numbers(draw, 1), [(0, "*", -1.5)]), note="a * -1.5")


@exercise.property("a leaf adds up the gradients of several calls of backward")
def calls(draw: Draw):
    yield Case((numbers(draw, 2), [(0, "*", 1)]), {"backward": 2}, note="two calls")
    steps = [(0, "*", 1), (-1, "exp", None), (-1, "*", 0)]
    yield Case((numbers(draw, 2), steps), {"backward": 2}, note="two calls and a chain")
    yield Case((numbers(draw, 2), steps), {"backward": 3}, note="three calls and a chain")


@exercise.property("a chain of thousands of values is no problem", weight=0.5)
def deep(draw: Draw):
    n = draw.integer(3000, 4000)
    yield Case((numbers(draw, 1), [(-1, "+", 0)]), {"repeat": n}, note=f"{n} sums in a row")


@exercise.wrong(
    "keeps only the gradient that arrives last",
    hint="A value that is used twice moves the result on two ways. What should happen to the "
    "gradient that is already there when a second one comes back?",
    see="backprop#shared-values-add-up",
)
class Overwrites:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient = local * node.gradient


@exercise.wrong(
    "passes a gradient on once for every path, parts of it again and again",
    hint="When a second contribution reaches a value, yours sends everything that has gathered"
    " there down once more. When may a value pass its gradient on, and how often?",
    see="backprop#the-order-of-the-way-back",
)
class EveryPath:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def backward(self):
        self.gradient += 1.0
        stack = [self]
        while stack:
            node = stack.pop()
            for child, local in node.inputs:
                child.gradient += local * node.gradient
                stack.append(child)


@exercise.wrong(
    "goes back level by level, so that some gradients leave before they are complete",
    hint="A value may be an input of the result and of another input of it. Level by level it "
    "is visited first and sends on half of what it will get. Which order visits a value "
    "after all its users?",
    see="backprop#the-order-of-the-way-back",
)
class LevelByLevel:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen = [self], {id(self)}
        for node in order:
            for child, _ in node.inputs:
                if id(child) not in seen:
                    seen.add(id(child))
                    order.append(child)
        return order[::-1]

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "recurses once per value, too deep for Python",
    hint="Python gives up at about 1000 nested calls. A list that you push to and pop from "
    "goes as deep as memory allows.",
    see="backprop#the-order-of-the-way-back",
)
class Recursive:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for child, _ in node.inputs:
                    visit(child)
                order.append(node)

        visit(self)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "starts from a gradient of zero",
    hint="Every gradient is a product that begins at the result itself. What is the derivative"
    " of the result with respect to itself?",
    see="backprop#the-chain-rule",
)
class NoSeed:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "gives each factor of a product its own value as derivative",
    hint="In a b, hold b still and move a. The slope is not a.",
    see="backprop#local-derivatives",
)
class OwnFactor:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, self.value), (other, other.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "does not lower the exponent of a power",
    hint="Compare your derivative of x squared at x = 3 with a numerical one. One of the two "
    "places where the exponent stands is off.",
    see="backprop#local-derivatives",
)
class SameExponent:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value**n)])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "forgets the exponent in front of a power",
    hint="The exponent comes down as a factor before it is lowered by one. Check x cubed "
    "numerically.",
    see="backprop#local-derivatives",
)
class NoFactor:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "differentiates the exponential like a power",
    hint="The exponential is the function that is its own derivative. Which number do you "
    "already have that equals the slope?",
    see="backprop#local-derivatives",
)
class ExponentialAsPower:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, self.value * math.exp(self.value - 1))])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "takes other values only, no plain numbers",
    hint="`a + 2.5` calls your `__add__` with a float, which has no `.value`. Make a leaf of "
    "it first.",
    see="backprop#a-graph-of-numbers",
)
class NoPlainNumbers:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "lets values in between remember the gradients of earlier calls",
    hint="Leaves should add up over calls. A value in between should not: what it remembers "
    "from the last call is sent down a second time.",
    see="backprop#gradients-accumulate",
)
class RemembersInside:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        self.gradient = 1.0
        for node in reversed(self.order()):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "clears the leaves at every call",
    hint="Two calls of backward should leave the sum of two gradients in a leaf: this is how a"
    " large batch is put together from small ones. Who is meant to clear them?",
    see="backprop#gradients-accumulate",
)
class ClearsLeaves:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.wrong(
    "keeps one entry per input, so that a value counts once in a + a",
    hint="A dict or a set holds a key once. In a * a the same value is an input twice, with a "
    "derivative each time.",
    see="backprop#shared-values-add-up",
)
class OneEntryEach:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = list({id(child): (child, local) for child, local in inputs}.values())

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.right("inputs and local derivatives, ordered with a stack")
class OrderedWithAStack:
    def __init__(self, value, inputs=()):
        self.value = value
        self.gradient = 0.0
        self.inputs = inputs

    def __add__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        return type(self)(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = other if isinstance(other, type(self)) else type(self)(other)
        inputs = [(self, other.value), (other, self.value)]
        return type(self)(self.value * other.value, inputs)

    def __pow__(self, n):
        return type(self)(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        y = math.exp(self.value)
        return type(self)(y, [(self, y)])

    def order(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child, _ in node.inputs)
        return order

    def backward(self):
        order = self.order()
        for node in order:
            if node.inputs:
                node.gradient = 0.0
        self.gradient += 1.0
        for node in reversed(order):
            for child, local in node.inputs:
                child.gradient += local * node.gradient


@exercise.right("ordered by age: what is computed later comes back earlier")
class OrderedByAge:
    born = 0

    def __init__(self, value, inputs=()):
        self.value, self.gradient, self.inputs = float(value), 0.0, tuple(inputs)
        type(self).born += 1
        self.age = type(self).born

    def _like(self, x):
        return x if isinstance(x, type(self)) else type(self)(x)

    def __add__(self, other):
        b = self._like(other)
        return type(self)(self.value + b.value, ((self, 1), (b, 1)))

    def __mul__(self, other):
        b = self._like(other)
        return type(self)(self.value * b.value, ((self, b.value), (b, self.value)))

    def __pow__(self, n):
        y = math.pow(self.value, n)
        return type(self)(y, ((self, n * y / self.value),))

    def exp(self):
        return type(self)(math.exp(self.value), ((self, math.exp(self.value)),))

    def backward(self):
        found, waiting = {self.age: self}, [self]
        while waiting:
            for child, _ in waiting.pop().inputs:
                if child.age not in found:
                    found[child.age] = child
                    waiting.append(child)
        arrived = dict.fromkeys(found, 0.0)
        arrived[self.age] = 1.0
        for age in sorted(found, reverse=True):
            for child, local in found[age].inputs:
                arrived[child.age] += arrived[age] * local
        for age, node in found.items():
            node.gradient = arrived[age] if node.inputs else node.gradient + arrived[age]


@exercise.right("closures that pass the gradient on, called when the last user is done")
class Closures:
    def __init__(self, value, parents=()):
        self.value = float(value)
        self.gradient = 0.0
        self.parents = parents
        self.pass_on = lambda: None

    def __add__(self, other):
        other = other if hasattr(other, "parents") else self.__class__(other)
        out = self.__class__(self.value + other.value, (self, other))

        def pass_on():
            self.gradient += out.gradient
            other.gradient += out.gradient

        out.pass_on = pass_on
        return out

    def __mul__(self, other):
        other = other if hasattr(other, "parents") else self.__class__(other)
        out = self.__class__(self.value * other.value, (self, other))

        def pass_on():
            self.gradient += other.value * out.gradient
            other.gradient += self.value * out.gradient

        out.pass_on = pass_on
        return out

    def __pow__(self, n):
        out = self.__class__(self.value**n, (self,))

        def pass_on():
            self.gradient += n * self.value ** (n - 1) * out.gradient

        out.pass_on = pass_on
        return out

    def exp(self):
        out = self.__class__(math.exp(self.value), (self,))

        def pass_on():
            self.gradient += out.value * out.gradient

        out.pass_on = pass_on
        return out

    def backward(self):
        users, nodes = {id(self): 0}, [self]
        for node in nodes:
            for parent in node.parents:
                if id(parent) not in users:
                    users[id(parent)] = 0
                    nodes.append(parent)
                users[id(parent)] += 1
        for node in nodes:
            if node.parents:
                node.gradient = 0.0
        self.gradient += 1.0
        ready = [self]
        while ready:
            node = ready.pop()
            node.pass_on()
            for parent in node.parents:
                users[id(parent)] -= 1
                if users[id(parent)] == 0:
                    ready.append(parent)
