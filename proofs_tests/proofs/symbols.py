"""Charts, points and matrices as symbols: what is proved with them holds for every chart, every core and every dimension.

Matrices and columns are non-commuting symbols, numbers are commuting real ones: an identity that `reduce` proves is one of
the free algebra with the stated rules, hence one of matrices of all sizes that fit. A chart has two rules and no others:
point(coords(x)) = x and coords(point(z)) = z. Points are no algebraic expressions: nothing can add them but a space.
Pages that the proofs name are those of docs/theory.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sympy import Add, Basic, Expr, Integer, Mul, Pow, Symbol, expand, transpose

__all__ = ["Coords", "Map", "Point", "Space", "T", "matrices", "numbers", "points", "reduce", "same", "word"]

T = transpose  # reverses products, leaves numbers
Rules = Mapping[Expr, Expr | int]


class Point(Basic):
    """g^-1(z)."""

    def __new__(cls, chart: Symbol, z: Expr) -> Basic:
        z = expand(z)
        if isinstance(z, Coords) and z.args[0] == chart:
            return z.args[1]
        return Basic.__new__(cls, chart, z)


class Coords(Expr):
    """g(x)."""

    is_commutative = False

    def __new__(cls, chart: Symbol, x: Basic) -> Expr:
        if isinstance(x, Point) and x.args[0] == chart:
            return x.args[1]
        return Expr.__new__(cls, chart, x)


class Unknown(Basic):
    """A point of which nothing is known."""


@dataclass(frozen=True)
class Space:
    """The operations of docs/theory/transport.md, word for word, over an abstract chart g."""

    name: str

    def coords(self, x: Basic) -> Expr:
        return Coords(Symbol(self.name), x)

    def point(self, z: Expr | int) -> Basic:
        return Point(Symbol(self.name), expand(z))

    def add(self, x: Basic, y: Basic) -> Basic:
        return self.point(self.coords(x) + self.coords(y))

    def scale(self, a: Expr | int, x: Basic) -> Basic:
        return self.point(a * self.coords(x))

    def zero(self) -> Basic:
        return self.point(Integer(0))

    def neg(self, x: Basic) -> Basic:
        return self.point(-self.coords(x))

    def inner(self, x: Basic, y: Basic) -> Expr:
        return T(self.coords(x)) * self.coords(y)


@dataclass(frozen=True)
class Map:
    """f = g_y^-1 A g_x, with its adjoint g_x^-1 A^T g_y."""

    core: Expr
    domain: Space
    codomain: Space

    def __call__(self, x: Basic) -> Basic:
        return self.codomain.point(self.core * self.domain.coords(x))

    @property
    def H(self) -> "Map":
        return Map(T(self.core), self.codomain, self.domain)


def matrices(names: str) -> list[Symbol]:
    """Non-commuting symbols."""
    return [Symbol(name, commutative=False) for name in names.split()]


def numbers(names: str) -> list[Symbol]:
    """Commuting real symbols."""
    return [Symbol(name, real=True) for name in names.split()]


def points(names: str) -> list[Basic]:
    """Unknown points."""
    return [Unknown(Symbol(name)) for name in names.split()]


def word(product: Expr) -> tuple[Expr, ...]:
    """The letters of a product of matrices; A^3 has three."""
    letters: list[Expr] = []
    for factor in product.args_cnc()[1]:
        whole = isinstance(factor, Pow) and factor.exp.is_Integer and factor.exp > 0
        letters += [factor.base] * int(factor.exp) if whole else [factor]
    return tuple(letters)


def reduce(expression: Expr | int, rules: Rules | None = None) -> Expr:
    """The normal form: expanded, every word replaced by the right side of its rule until no rule applies."""
    known = [(word(left), right) for left, right in (rules or {}).items()]
    if any(letters == () or Mul(*letters) != left for (letters, _), left in zip(known, rules or {}, strict=True)):
        raise ValueError("the left side of a rule is a word of matrices, without a number")
    todo, done = list(Add.make_args(expand(expression))), []
    while todo:
        term = todo.pop()
        number, letters = Mul(*term.args_cnc()[0]), word(term)
        for left, right in known:
            at = next((i for i in range(len(letters) - len(left) + 1) if letters[i : i + len(left)] == left), None)
            if at is not None:
                new = number * Mul(*letters[:at]) * right * Mul(*letters[at + len(left) :])
                todo += Add.make_args(expand(new))
                break
        else:
            done.append(term)
    return expand(Add(*done))


def same(x: Basic, y: Basic, rules: Rules | None = None) -> bool:
    """Whether two points are one: a chart is one-to-one, so it may be asked of their coordinates."""
    charts = [p.args[0] for p in (x, y) if isinstance(p, Point)]
    chart = charts[0] if charts else Symbol("any")
    return bool(reduce(Coords(chart, x) - Coords(chart, y), rules) == 0)
