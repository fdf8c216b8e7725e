"""The algebra of the proofs itself: it proves what its rules say and nothing else."""

import pytest
from sympy import Integer

from proofs_tests.proofs.symbols import Space, T, matrices, numbers, points, reduce, same

A, B = matrices("A B")
(a,), (x, y) = numbers("a"), points("x y")


def test_numbers_commute_and_matrices_do_not() -> None:
    assert reduce(A * a * B - a * A * B) == 0
    assert reduce(A * B - B * A) != 0


def test_transposes_reverse_products_and_leave_numbers() -> None:
    assert T(a * A * B) == a * T(B) * T(A) and T(T(A)) == A
    assert reduce(T(A) - A) != 0


def test_rules_rewrite_words_within_longer_ones_until_none_applies() -> None:
    assert reduce(B * A**4 * B, {A * A: A}) == B * A * B
    assert reduce(B * A**3, {A * A: 1 + B}) == B * A + B * B * A
    assert reduce(A * B, {B * A: Integer(1)}) == A * B


def test_the_left_side_of_a_rule_is_a_word() -> None:
    with pytest.raises(ValueError, match="a word of matrices"):
        reduce(A, {2 * A: B})


def test_a_chart_and_its_inverse_cancel_and_two_charts_do_not() -> None:
    V, W = Space("g"), Space("h")
    assert V.point(V.coords(x)) == x and V.coords(V.point(A)) == A
    assert W.point(V.coords(x)) != x and not same(x, y)


def test_points_cannot_be_added_but_by_a_space() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        x + y
