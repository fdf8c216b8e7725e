"""Lattice (idempotent.md): couplings that add shifts rounded to h Z, h = 2^-b, have g^-1(g(x)) = x to the last bit on
(h Z)^n, and f f = f for f = g^-1 P g with a 0/1 projection P.

Assumed of floating point: a sum that is a multiple of h below 2^24 h (2^53 h) is not rounded, as it has at most 24 (53) bits
(IEEE 754); s is the same function in both directions. Nothing is assumed of other sums. Proved for all shifts and b.
"""

from sympy import Expr, Function, Integer, Rational, Symbol, floor, symbols

h = Symbol("h", positive=True)


class Rounded(Function):
    """The float next to a sum."""

    @classmethod
    def eval(cls, value: Expr) -> Expr | None:
        return value if (value / h).expand().is_integer else None


Pair = tuple[Expr, Expr]
m, n = symbols("m n", integer=True)
on, off = (m * h, n * h), symbols("a b", real=True)
shifts = [Function(f"s_{k}", real=True) for k in range(3)]


def on_lattice(u: Expr) -> Expr:
    return floor(u / h + Rational(1, 2)) * h


def coupling(k: int, p: Pair, sign: int, *, rounded: bool = True) -> Pair:
    """(a, b) -> (a, b + s(a)), the halves exchanged at every second one."""
    kept, changed = p if k % 2 == 0 else p[::-1]
    shift = shifts[k](kept)
    changed = Rounded((changed + sign * (on_lattice(shift) if rounded else shift)).expand())
    return (kept, changed) if k % 2 == 0 else (changed, kept)


def chart(p: Pair, *, rounded: bool = True) -> Pair:
    for k in range(3):
        p = coupling(k, p, 1, rounded=rounded)
    return p


def inverse(p: Pair, *, rounded: bool = True) -> Pair:
    for k in reversed(range(3)):
        p = coupling(k, p, -1, rounded=rounded)
    return p


def project(p: Pair, *, rounded: bool = True) -> Pair:
    """g^-1 P g."""
    return inverse((chart(p, rounded=rounded)[0], Integer(0)), rounded=rounded)


def test_round_trips_are_exact_both_ways() -> None:
    assert inverse(chart(on)) == on == chart(inverse(on))


def test_the_lattice_is_kept() -> None:
    assert all((value / h).expand().is_integer for value in chart(on))


def test_a_projection_is_idempotent() -> None:
    assert project(project(on)) == project(on) != on


def test_shifts_that_are_not_rounded_are_refuted() -> None:
    assert inverse(chart(on, rounded=False), rounded=False) != on
    assert project(project(on, rounded=False), rounded=False) != project(on, rounded=False)


def test_points_off_the_lattice_are_refuted() -> None:
    assert inverse(chart(off)) != off
