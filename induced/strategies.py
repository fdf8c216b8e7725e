"""Hypothesis strategies for points, operators and maps, at which `check` tries all laws (docs/guide/own_bijection.md).

Points are drawn in coordinates, in a ball whose radius says how far from zero a chart is tried. Every draw is a function of
what Hypothesis chose: torch's global generator is not touched. Points shrink to zero
coordinates, matrices to the identity. Where `dtype` is None it is that of the parameters, and float64 where there are none.
"""

import math

import numpy as np
import torch
from torch import Tensor

from induced.bijections import Bijection
from induced.errors import DomainError, DtypeError, MissingExtra, ShapeError
from induced.linearizer import Linearizer
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, Orthogonal, ScaledIdentityPlusLowRank
from induced.operators.base import Adjoint
from induced.spaces import HilbertSpace, InducedSpace

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as st_numpy
except ImportError as error:
    raise MissingExtra(f"strategies need hypothesis ({error}): install induced[test]") from error

__all__ = ["coordinates", "linearizers", "matrices", "operators", "points", "scalars"]

LEAST = 2.0**-20
"""The least number that is not 0: squares of what is drawn do not vanish in float32."""

SCALES = (1.0, 2.0**-10, 2.0**-40)
"""Coordinates are drawn in the ball, near the zero vector, and so near that a chart rounds more than they are long."""

EACH = 64
"""As many entries are drawn one by one."""


def scalars(bound: float = 1.5) -> st.SearchStrategy[float]:
    """Numbers a with |a| <= bound, 0 or at least 2^-20: no subnormals, none that vanishes in a square.

    Arguments:
        bound: above 2^-20; rounded down to what float32 holds, as all numbers drawn are.

    Raises:
        DomainError: the bound is not a finite number above 2^-20.

    Law:
        `a == 0 or 2**-20 <= abs(a) <= bound` (laws/test_strategies.py)
    """
    if not LEAST < bound < math.inf:
        raise DomainError(f"the bound of scalars is a finite number above 2^-20, got {bound}")
    largest = _float32_below(bound)
    return st.floats(-largest, largest, width=32, allow_subnormal=False).map(lambda a: a if abs(a) >= LEAST else 0.0)


def coordinates(
    dim: int, *, count: int = 5, radius: float = 2.0, dtype: torch.dtype = torch.float64
) -> st.SearchStrategy[Tensor]:
    """Tensors (count, dim) whose rows have norm at most `radius`.

    Up to 64 entries are drawn one by one and shrink one by one; more are few that are not zero, or all of them from a seed. Some
    draws are shortened by 2^-10 or 2^-40, to where a chart rounds numbers that are larger than the coordinates.

    Arguments:
        dim: at least 1.
        count: rows, at least 1.
        radius: the largest norm of a row; a finite number above 2^-20.

    Raises:
        ShapeError: a side is below 1. DomainError: the radius is not a finite number above 2^-20.

    Law:
        `z.norm(dim=-1) <= radius` up to rounding (section 7; laws/test_strategies.py)
    """
    if dim < 1 or count < 1:
        raise ShapeError(f"coordinates need dim >= 1 and count >= 1, got dim={dim} and count={count}")
    if not LEAST < radius < math.inf:
        raise DomainError(f"the radius of coordinates is a finite number above 2^-20, got {radius}")
    entries, shape = scalars(radius), (count, dim)
    if count * dim <= EACH:
        drawn = st_numpy.arrays("float64", shape, elements=entries, fill=st.nothing()).map(torch.from_numpy)
    else:
        sparse = st_numpy.arrays("float64", shape, elements=entries, fill=st.just(0.0)).map(torch.from_numpy)
        drawn = sparse | st.builds(_in_a_ball, _seeds(), st.just(shape), entries)

    def shortened(z: Tensor, scale: float) -> Tensor:
        return (z * (scale * radius / _lengths(z).clamp(min=radius))).to(dtype)

    return st.builds(shortened, drawn, st.sampled_from(SCALES))


def points(
    space: HilbertSpace | Bijection, *, count: int = 5, radius: float = 2.0, dtype: torch.dtype | None = None
) -> st.SearchStrategy[Tensor]:
    """Points (count, *shape) of a space, or of that of a chart, g^-1(z) for coordinates |z| <= radius; on its device.

    Arguments:
        space: the space, or its chart.
        count: how many; the laws of three points want at least 3.
        radius: the largest norm. Laws add three points; what a chart cannot hold they try at multiples of the points.

    Raises:
        ShapeError, DomainError: as `coordinates`. DtypeError: neither a space nor a chart came.

    Example:
        >>> from hypothesis import given, settings
        >>> from induced import check, require
        >>> from induced.bijections import Log
        >>> g = Log((3,))
        >>> @settings(max_examples=3, deadline=None, database=None)
        ... @given(points(g))
        ... def test_log(x):
        ...     require(check(g, x))
        >>> test_log()

    Law:
        `space.norm(x) <= radius` up to rounding (section 7; laws/test_strategies.py)
    """
    X = InducedSpace(space) if isinstance(space, Bijection) else space
    if not isinstance(X, HilbertSpace):
        raise DtypeError(f"points takes a HilbertSpace or a Bijection, got {type(space).__name__}")
    device = X.device

    def point(z: Tensor) -> Tensor:
        with torch.no_grad():
            return X.point(z.to(device))

    return coordinates(X.dim, count=count, radius=radius, dtype=dtype or _dtype(X)).map(point)


def matrices(
    m: int,
    n: int | None = None,
    *,
    rank: int | None = None,
    condition: float = 10.0,
    dtype: torch.dtype = torch.float64,
) -> st.SearchStrategy[Tensor]:
    """Matrices U S V^T (m, n) whose singular values that are not 0 lie in [1, condition].

    Arguments:
        m, n: sides, at least 1; n = m by default.
        rank: the number of singular values that are not 0; min(m, n) by default.
        condition: the largest condition number, at least 1.

    Raises:
        ShapeError: a side is below 1, or the rank is not in 0..min(m, n). DomainError: the condition is below 1 or infinite.

    Law:
        `1 <= s <= condition` for the `rank` singular values that are not 0 (laws/test_strategies.py)
    """
    return _factors(m, m if n is None else n, rank, condition).map(lambda F: (F[0] * F[1] @ F[2].mT).to(dtype))


def operators(
    m: int,
    n: int | None = None,
    *,
    rank: int | None = None,
    condition: float = 10.0,
    dtype: torch.dtype = torch.float64,
) -> st.SearchStrategy[LinearOperator]:
    """Operators of shape (m, n) in several structures, with matrices as `matrices` draws them.

    Dense, its adjoint and U V^T; square ones of full rank also diagonal, orthogonal and c I + U V^T.

    Arguments:
        m, n, rank, condition: as in `matrices`.

    Raises:
        ShapeError, DomainError: as `matrices`.

    Law:
        the singular values of `A.matrix()` are as those of `matrices` (laws/test_strategies.py)
    """
    n = m if n is None else n
    factors = _factors(m, n, rank, condition)
    kinds: list[st.SearchStrategy[LinearOperator]] = [
        factors.map(lambda F: Dense((F[0] * F[1] @ F[2].mT).to(dtype))),
        factors.map(lambda F: Adjoint(Dense((F[2] * F[1] @ F[0].mT).to(dtype)))),
        factors.map(lambda F: LowRank((F[0] * F[1]).to(dtype), F[2].to(dtype))),
    ]
    if m == n and rank in (None, n):
        signs = st.lists(st.sampled_from((1.0, -1.0)), min_size=n, max_size=n).map(lambda a: torch.tensor(a).double())
        shift = st.floats(1, _float32_below(condition), width=32)
        kinds += [
            st.tuples(factors, signs).map(lambda drawn: Diagonal((drawn[0][1] * drawn[1]).to(dtype))),
            factors.map(lambda F: Orthogonal(F[0].to(dtype))),
            st.tuples(factors, shift, st.integers(0, n)).map(lambda drawn: _shifted(*drawn, dtype=dtype)),
        ]
    return st.one_of(kinds)


def linearizers(
    domain: HilbertSpace,
    codomain: HilbertSpace | None = None,
    *,
    rank: int | None = None,
    condition: float = 10.0,
    dtype: torch.dtype | None = None,
) -> st.SearchStrategy[Linearizer]:
    """Maps between two spaces, or of one to itself, whose cores are drawn by `operators`.

    Arguments:
        domain, codomain: the spaces; codomain = domain by default.
        rank, condition: as in `matrices`.

    Raises:
        ShapeError, DomainError: as `matrices`.

    Law:
        `require(check(f, x))` for points x of the domain (laws/test_strategies.py)
    """
    Y = domain if codomain is None else codomain
    cores = operators(Y.dim, domain.dim, rank=rank, condition=condition, dtype=dtype or _dtype(domain))
    return cores.map(lambda A: Linearizer(A.to(domain.device), domain, Y))


Factors = tuple[Tensor, Tensor, Tensor]


def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


def _float32_below(bound: float) -> float:
    """The largest number up to the bound that float32 holds."""
    largest = np.float32(bound)
    return float(largest if float(largest) <= bound else np.nextafter(largest, np.float32(0)))


def _dtype(X: HilbertSpace) -> torch.dtype:
    return X.dtype or torch.float64


def _normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _lengths(z: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return lengths


def _in_a_ball(seed: int, shape: tuple[int, int], length: float) -> Tensor:
    """Rows of random directions, the first of the given length and the others of random parts of it."""
    drawn = _normal(shape[0], shape[1] + 1, seed)
    z, parts = drawn[:, 1:], drawn[:, :1].clamp(-1.0, 1.0)
    parts[0] = 1.0
    return z * (parts * length / _lengths(z))


def _orthonormal(m: int, r: int, seed: int) -> Tensor:
    """r orthonormal columns of R^m, m >= r; the first unit vectors for seed 0."""
    return torch.eye(m, r, dtype=torch.float64) if seed == 0 else torch.linalg.qr(_normal(m, r, seed)).Q


def _factors(m: int, n: int, rank: int | None, condition: float) -> st.SearchStrategy[Factors]:
    """U (m, r), s (r,) and V (n, r) of a matrix of rank r."""
    if m < 1 or n < 1 or not 0 <= (r := min(m, n) if rank is None else rank) <= min(m, n):
        raise ShapeError(f"matrices need sides >= 1 and a rank in 0..min(m, n), got ({m}, {n}) of rank {rank}")
    if not 1 <= condition < math.inf:
        raise DomainError(f"a condition number is a finite number >= 1, got {condition}")
    values = st.lists(st.floats(1, _float32_below(condition), width=32), min_size=r, max_size=r)
    return st.tuples(_seeds(), values, _seeds()).map(
        lambda drawn: (
            _orthonormal(m, r, drawn[0]),
            torch.tensor(drawn[1], dtype=torch.float64),
            _orthonormal(n, r, drawn[2]),
        )
    )


def _shifted(factors: Factors, c: float, r: int, *, dtype: torch.dtype) -> ScaledIdentityPlusLowRank:
    """c I + Q (S - c I) Q^T, r columns: symmetric, with the eigenvalues s_1, ..., s_r and c."""
    Q, s = factors[0][:, :r], factors[1][:r]
    return ScaledIdentityPlusLowRank(c, (Q * (s - c)).to(dtype), Q.to(dtype))
