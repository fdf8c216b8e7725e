"""Prop 2.3: (V, (+), (.)) with x (+) y = g^-1(g(x) + g(y)), a (.) x = g^-1(a g(x)) is a real vector space: App. A's nine
checks.

Assumed: g is a bijection from a set V onto a real vector space. Proved for all points, numbers, charts and dimensions.
"""

from collections.abc import Callable

import pytest
from sympy import Expr, Integer, Symbol
from sympy.core import Basic

from proofs_tests.proofs.symbols import Point, Space, numbers, points, same

a, b = numbers("a b")
x, y, z = points("x y z")

AXIOMS: dict[str, Callable[[Space], bool]] = {
    "closure": lambda V: all(isinstance(p, Point) and p.args[0] == Symbol(V.name) for p in (V.add(x, y), V.scale(a, x))),
    "associativity": lambda V: same(V.add(V.add(x, y), z), V.add(x, V.add(y, z))),
    "commutativity": lambda V: same(V.add(x, y), V.add(y, x)),
    "identity": lambda V: same(V.add(x, V.zero()), x),
    "inverse": lambda V: same(V.add(x, V.neg(x)), V.zero()),
    "compatibility": lambda V: same(V.scale(a, V.scale(b, x)), V.scale(a * b, x)),
    "scalar identity": lambda V: same(V.scale(Integer(1), x), x),
    "distributive over points": lambda V: same(V.scale(a, V.add(x, y)), V.add(V.scale(a, x), V.scale(a, y))),
    "distributive over numbers": lambda V: same(V.scale(a + b, x), V.add(V.scale(a, x), V.scale(b, x))),
}


@pytest.mark.parametrize("axiom", AXIOMS)
def test_every_axiom_holds_in_every_chart(axiom: str) -> None:
    assert AXIOMS[axiom](Space("g"))


def test_negatives_and_zero_are_multiples() -> None:
    V = Space("g")
    assert same(V.neg(x), V.scale(Integer(-1), x)) and same(V.zero(), V.scale(Integer(0), x))


class Subtracting(Space):
    def add(self, x: Basic, y: Basic) -> Basic:
        return self.point(self.coords(x) - self.coords(y))


class Squaring(Space):
    def scale(self, a: Expr | int, x: Basic) -> Basic:
        return self.point(a**2 * self.coords(x))


class Foreign(Space):
    def add(self, x: Basic, y: Basic) -> Basic:
        return Space("other").point(self.coords(x) + self.coords(y))


def test_false_operations_are_refuted() -> None:
    failing = {
        cls.__name__: {name for name, law in AXIOMS.items() if not law(cls("g"))} for cls in (Subtracting, Squaring, Foreign)
    }
    assert failing["Subtracting"] == {"associativity", "commutativity", "inverse", "distributive over numbers"}
    assert failing["Squaring"] == {"distributive over numbers"}
    assert {"closure", "associativity", "identity", "inverse"} <= failing["Foreign"]
