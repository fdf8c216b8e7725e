"""The core of a Linearizer for fixed charts, in closed form: least squares, of data given at once or in batches."""

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from induced._numerics import linear_algebra
from induced._validate import eager, require_like, require_precision, require_shape, require_tensor
from induced.errors import DomainError, DtypeError, ShapeError, SpaceMismatch
from induced.fitting.solvers import Rows, leading, minimum
from induced.linearizer import Linearizer
from induced.operators import BlockDiagonal, Dense, LinearOperator, LowRank, as_operator
from induced.operators.factors import tracked
from induced.operators.kept import Mark
from induced.operators.krylov import whole
from induced.spaces import HilbertSpace
from induced.spaces.hilbert import difference

CHUNK = 2**13
"""Pairs that are factored at a time, in float64, or eight times the unknowns where those are more."""

Blocks = BlockDiagonal | Sequence[int | tuple[int, int]]


@linear_algebra
def least_squares(
    domain: HilbertSpace,
    codomain: HilbertSpace,
    x: Tensor,
    y: Tensor,
    *,
    ridge: float | Tensor = 0.0,
    prior: LinearOperator | Tensor | None = None,
    rank: int | None = None,
    weights: Tensor | None = None,
    blocks: Blocks | None = None,
) -> Linearizer:
    """The core A = argmin sum_ik w_ik (A z_i - g_y(y_i))_k^2 + sum_kj p_kj (A - A_0)_kj^2, with z_i = g_x(x_i).

    This is dynamic mode decomposition with an invertible dictionary, the chart: y_i the successor of x_i. It minimises the error
    in coordinates, not that of the points. Computed in float64, also under autocast. Of all minimisers it is the nearest to the
    prior; directions of z that rounding hides count as unseen. Derivatives of every order reach charts, weights, ridge and
    prior. `LeastSquares` takes data in batches; this function is one batch of it.

    Arguments:
        domain: the space of the points x, of dimension n.
        codomain: the space of the points y, of dimension m; `domain` again for a dynamical system.
        x: points (*batch, *domain.shape), N in all.
        y: their images (*batch, *codomain.shape).
        ridge: the penalty p >= 0: a number, (n,) for one per coordinate of z, or (m, n) for one per entry of A.
        prior: A_0, towards which the penalty shrinks A: an operator or matrix (m, n); zero by default.
        rank: the largest rank of A, in 0..min(m, n); the core is then a `LowRank`.
        weights: w >= 0: (*batch,) for one per pair, or (*batch, m) for one per coordinate of g_y(y_i); 1 by default. An entry
            that is missing has the weight 0 and any finite number in its place.
        blocks: A is block diagonal: a `BlockDiagonal` of the wanted shapes, or their sizes, (m_j, n_j) or n_j for (n_j, n_j).

    Returns:
        The Linearizer from `domain` to `codomain`; its core does not train.

    Raises:
        ShapeError: no pairs and no prior, x and y of different batches, or another argument of a shape not named above; or a
            rank beside weights or penalties that differ between the rows of A, for which there is no closed form.
        DtypeError: the coordinates of x are in half precision.
        DomainError: x, y, weights or ridge hold a value that is not finite, or a weight or penalty is negative.

    Example:
        >>> from induced import InducedSpace
        >>> from induced.bijections import Log
        >>> X = InducedSpace(Log((2,)))
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]])
        >>> least_squares(X, X, x, x**2)(torch.tensor([3.0, 4.0]))
        tensor([ 9., 16.])
        >>> least_squares(X, X, x, x**2, ridge=1e9, prior=torch.eye(2))(torch.tensor([3.0, 4.0]))
        tensor([3., 4.])

    Law:
        the normal equations `(w * (Z @ A.mT - W)).mT @ Z + p * (A - A_0) == 0`, z_i in the rows of Z (laws/test_fitting.py)
    """
    problem = LeastSquares(domain, codomain)
    problem._add(x, y, weights)
    return problem.solve(ridge=ridge, prior=prior, rank=rank, blocks=blocks)


@final
class LeastSquares:
    """The problem of `least_squares`, its data given in batches: what they say of A is kept in a triangle R.

    With z_i in the rows of Z, g_y(y_i) in those of W, and sqrt(w) Z = Q R, the cost of A is |R A^T - Q^T sqrt(w) W|^2 and a
    constant. A batch is joined by the QR of [R; batch], so that no digit is lost; the normal equations would square the
    condition number. At most 4 n rows (1024 where n is small) are held, whatever N is. With weights per coordinate of y there
    is a triangle for each. Ridge, prior, rank and blocks are chosen in `solve`, as often as you like. The charts must not
    change between calls. No gradients are kept: for those use `least_squares`.

    Arguments:
        domain: the space of the points x, of dimension n.
        codomain: the space of the points y, of dimension m.

    Attributes:
        pairs: how many pairs have been given.

    Raises:
        SpaceMismatch, on use: a parameter or buffer of the charts has changed since the first batch.

    Law:
        batches in any sizes and order, or in problems that are merged, give the fit of all data at once
        (laws/test_fitting_in_batches.py)

    Example:
        >>> from induced import EuclideanSpace
        >>> problem = LeastSquares(EuclideanSpace(2), EuclideanSpace(1))
        >>> for x in torch.randn(1000, 2).split(100):
        ...     problem.update(x, x[:, :1] - x[:, 1:])
        >>> torch.allclose(problem.solve().core.matrix(), torch.tensor([[1.0, -1.0]]))
        True
    """

    def __init__(self, domain: HilbertSpace, codomain: HilbertSpace) -> None:
        self.domain, self.codomain, self.pairs = domain, codomain, 0
        self._groups: list[Rows] = []  # one, or one for each coordinate of the codomain
        self._like: Tensor | None = None
        self._marks: list[Mark] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take(self._marks)  # a copy has tensors of its own, which lie elsewhere

    def _take(self, marks: list[Mark]) -> None:
        """Marks of these charts, from those of copies of them."""
        tensors = self._tensors() if marks else []
        self._marks = [m.moved(t) for m, t in zip(marks, tensors, strict=True)] if len(marks) == len(tensors) else marks

    @linear_algebra
    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor, *, weights: Tensor | None = None) -> None:
        """Join a batch of pairs: x (*batch, *domain.shape), y and weights as in `least_squares`, which raises the same."""
        self._require_same_charts()
        self._add(x, y, weights)
        self._marks = self._marks or [Mark.of(t) for t in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        return [t for space in (self.domain, self.codomain) for t in (*space.parameters(), *space.buffers())]

    def _require_same_charts(self) -> None:
        tensors = self._tensors() if self._marks else []
        if len(tensors) != len(self._marks) or not all(mark.fits(t) for mark, t in zip(self._marks, tensors, strict=True)):
            raise SpaceMismatch(
                "a chart has changed since the first batch, so that earlier coordinates no longer fit: start a new LeastSquares"
            )

    def _add(self, x: Tensor, y: Tensor, weights: Tensor | None) -> None:
        Z, W = _coordinates(self.domain, x, "x"), _coordinates(self.codomain, y, "y")
        if Z.shape[:-1] != W.shape[:-1]:
            raise ShapeError(f"x and y must have the same batch shape, got {tuple(Z.shape[:-1])} and {tuple(W.shape[:-1])}")
        require_precision(Z.dtype, "the dtype of the coordinates of x")
        require_like(Z, self._like, "the coordinates of x beside those of earlier batches")
        n, m, roots = self.domain.dim, self.codomain.dim, _roots(weights, W)
        self._like = Z.detach().new_empty(0)
        if not self._groups:
            self._groups = [Rows(Z.new_zeros(0, n, dtype=torch.float64), W.new_zeros(0, m, dtype=torch.float64))]
        if roots.shape[-1] > 1:
            self._groups = _split(self._groups)
        count = Z.shape[:-1].numel()
        rows = Z.reshape(count, n), W.reshape(count, m), roots.reshape(count, roots.shape[-1])
        self.pairs += count
        most = max(4 * n, 1024) if len(self._groups) == 1 else 2 * n
        size = max(CHUNK, 8 * n) if eager(Z) and not tracked(*rows) else max(len(rows[0]), 1)
        for start in range(0, len(rows[0]), size):
            z, w, root = (part[start : start + size].double() for part in rows)
            for k, group in enumerate(self._groups):
                scale = root[:, k : k + 1] if root.shape[1] > 1 else root
                group.add(scale * z, scale * (w if len(self._groups) == 1 else w[:, k : k + 1]), weights is not None, most)

    def merge(self, other: "LeastSquares") -> None:
        """Join the data of another problem between the same two spaces, or copies of them: that of another process.

        Raises:
            SpaceMismatch: a space differs. DtypeError: the dtype or device of the data does.
        """
        for mine, theirs in ((self.domain, other.domain), (self.codomain, other.codomain)):
            if not _alike(mine, theirs):
                raise SpaceMismatch(
                    f"merged problems need the same spaces, or copies with equal values, got {difference(mine, theirs)}"
                )
        if other._like is None:
            return
        self._require_same_charts()
        other._require_same_charts()
        self._like = other._like if self._like is None else self._like
        require_like(other._like, self._like, "the data of a merged problem")
        groups = other._groups
        if not self._groups:
            self._groups = [Rows(*group.reduced(), group.uneven) for group in groups]
        else:
            if len(self._groups) != len(groups):
                self._groups, groups = _split(self._groups), _split(groups)
            for rows, more in zip(self._groups, groups, strict=True):
                rows.add(*more.reduced(), more.uneven)
        self.pairs += other.pairs
        self._take(other._marks)

    @linear_algebra
    def solve(
        self,
        *,
        ridge: float | Tensor = 0.0,
        prior: LinearOperator | Tensor | None = None,
        rank: int | None = None,
        blocks: Blocks | None = None,
    ) -> Linearizer:
        """The fit of all data so far; arguments and errors are those of `least_squares`. More batches may follow."""
        self._require_same_charts()
        n, m = self.domain.dim, self.codomain.dim
        if not self.pairs and prior is None:
            raise ShapeError("least squares needs at least one pair, or a prior, which is the fit of no data: give one of them")
        A_0 = _prior(prior, m, n, self._like)
        like = A_0 if self._like is None else self._like
        A_0, penalty, sizes = A_0.double(), _penalty(ridge, m, n, like.device), _sizes(blocks, m, n)
        groups = self._groups if self.pairs else [Rows(A_0.new_zeros(1, n), A_0.new_zeros(1, m))]
        if len(penalty) > 1:
            groups = _split(groups)
        if rank is not None:
            rank = self._rank(rank, sum(map(min, sizes)), len(groups))
        # The data round each of n directions, however many there are; the factorisation errs with its rows, in float64.
        rtol = torch.finfo(like.dtype).eps * n + torch.finfo(torch.float64).eps * self.pairs**0.5
        rows, fits = [group.reduced() for group in groups], []
        for K, J in _places(sizes):
            mine = [(Z[:, J], W[:, K]) for Z, W in rows] if len(rows) == 1 else [(Z[:, J], W) for Z, W in rows[K]]
            p = penalty[K if len(penalty) > 1 else slice(1), J]
            fits.append((mine, p, _core(mine, A_0[K, J], p, rtol)))
        if rank is None:
            matrices = [A.to(like.dtype) for *_, A in fits]
            alike = len(set(sizes)) == 1 < len(sizes)
            cores: list[LinearOperator] = [Dense(torch.stack(matrices))] if alike else [Dense(A) for A in matrices]
        else:
            cores = _truncated(fits, rank, like.dtype)
        return Linearizer(cores[0] if blocks is None else BlockDiagonal(*cores), self.domain, self.codomain)

    def _rank(self, rank: int, largest: int, problems: int) -> int:
        rank = whole(rank, 0, largest, f"the rank of a core from {self.domain!r} to {self.codomain!r}")
        if problems > 1:
            raise ShapeError(
                "the best core of a given rank has a closed form only where all its rows have the same weights and penalties: "
                "give weights of shape (*batch,) and a ridge of shape (n,), or fit without rank and take f.svd().truncate(rank), "
                "which is near the best core"
            )
        return rank

    def __repr__(self) -> str:
        return f"LeastSquares({self.domain!r} -> {self.codomain!r}, {self.pairs} pairs)"


# ----------------------------------------------------------------------------------------------------------- the solution
Problem = list[tuple[Tensor, Tensor]]  # Z and W of all outputs, or of each


def _core(rows: Problem, A_0: Tensor, penalty: Tensor, rtol: float) -> Tensor:
    """A_0 + B^T, B the minimiser for what A_0 leaves; row by row of A where there are rows [Z | w] for each."""
    parts = zip(rows, A_0.chunk(len(rows)), penalty.expand(len(rows), -1), strict=True)
    return torch.cat([start + minimum(Z, W - Z @ start.mT, p, rtol).mT for (Z, W), start, p in parts])


def _truncated(fits: list[tuple[Problem, Tensor, Tensor]], rank: int, dtype: torch.dtype) -> list[LinearOperator]:
    """The best blocks of this rank in all: |Z B - W|^2 + |sqrt(p) B|^2 exceeds its minimum by |[Z; sqrt(p)] (B - A^T)|^2."""
    costs = []
    for rows, penalty, A in fits:
        kept = penalty[0] > 0
        costs.append(torch.cat([rows[0][0] @ A.mT, penalty[0, kept].sqrt()[:, None] * A.mT[kept]]))
    ranks = [rank]
    if len(costs) > 1:
        values = [torch.linalg.svdvals(F.detach())[: min(A.shape)] for F, (*_, A) in zip(costs, fits, strict=True)]
        owners = torch.cat([torch.full_like(v, k) for k, v in enumerate(values)])
        ranks = torch.bincount(owners[torch.cat(values).topk(rank).indices].long(), minlength=len(fits)).tolist()
    cores: list[LinearOperator] = []
    for F, (*_, A), r in zip(costs, fits, ranks, strict=True):
        B, C = leading(F, r)
        cores.append(LowRank(B.to(dtype), (A.mT @ C).to(dtype)))
    return cores


# ---------------------------------------------------------------------------------------------------------- the arguments
def _split(groups: list[Rows]) -> list[Rows]:
    """The rows of each output, from those of all."""
    if len(groups) > 1:
        return groups
    Z, W = groups[0].reduced()
    return [Rows(Z, W[:, k : k + 1], groups[0].uneven) for k in range(W.shape[1])]


def _alike(one: HilbertSpace, other: HilbertSpace) -> bool:
    """Whether both are one space, or copies whose charts have the same values."""
    mine, theirs = one.state_dict(), other.state_dict()
    return one == other or (
        repr(one) == repr(other) and mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    )


def _coordinates(space: HilbertSpace, x: Tensor, what: str) -> Tensor:
    """The coordinates of finite points."""
    require_shape(x, space.shape, f"the points {what}")
    if eager(x) and not bool(torch.isfinite(x.detach().sum())):
        batch = x.shape[: x.dim() - len(space.shape)]
        bad = (~torch.isfinite(x)).reshape(*batch, -1).any(-1).nonzero().tolist()
        if bad:
            single = (
                "; where single coordinates are missing, put any finite number there, with the weight 0 in weights (*batch, m)"
            )
            raise DomainError(
                f"{len(bad)} of the points {what} hold nan or inf, the first at the index {tuple(bad[0])} of the batch "
                f"{tuple(batch)}: leave these pairs out{single if what == 'y' else ''}"
            )
    return space.coords(x)


def _roots(weights: Tensor | None, W: Tensor) -> Tensor:
    """The square roots of the weights (*batch, 1) or (*batch, m), in float64."""
    batch = W.shape[:-1]
    if weights is None:
        return W.new_ones(*batch, 1, dtype=torch.float64)
    require_tensor(weights, "weights")
    if weights.shape not in (batch, W.shape):
        raise ShapeError(
            f"weights must have shape {tuple(batch)}, one per pair, or {tuple(W.shape)}, one per coordinate of g_y(y); got "
            f"{tuple(weights.shape)}"
        )
    if weights.is_complex():
        raise DtypeError(f"weights are real numbers, got {weights.dtype}")
    weights = weights.to(W.device, torch.float64)
    _require_weights(weights, "weights")
    return (weights if weights.shape == W.shape else weights.unsqueeze(-1)).sqrt()


def _penalty(ridge: float | Tensor, m: int, n: int, device: torch.device) -> Tensor:
    """The penalties in float64: one row (1, n) where all rows of A share them, or (m, n)."""
    if not isinstance(ridge, Real | Tensor):
        raise DtypeError(f"the ridge must be a number or a tensor, got {type(ridge).__name__}")
    penalty = torch.as_tensor(ridge, dtype=torch.float64, device=device)
    if penalty.shape not in ((), (n,), (m, n)):
        raise ShapeError(
            f"the ridge must be a number, or have shape ({n},), one per coordinate of g_x(x), or ({m}, {n}), one per entry of "
            f"the core; got {tuple(penalty.shape)}"
        )
    _require_weights(penalty, "the ridge")
    return penalty.expand(m if penalty.dim() == 2 else 1, n)


def _require_weights(weights: Tensor, what: str) -> None:
    if not eager(weights):
        return
    wrong = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(wrong.any()):
        raise DomainError(f"{what} must be finite and >= 0, got {weights[wrong][0].item():g}")
    if tracked(weights) and bool((weights == 0).any()):
        raise DomainError(
            f"{what} must be > 0 to have a gradient, which passes through the square root: detach zeros, or leave them out"
        )


def _prior(prior: LinearOperator | Tensor | None, m: int, n: int, like: Tensor | None) -> Tensor:
    """The matrix A_0, on the device of the data."""
    if prior is None:
        return torch.zeros(m, n, dtype=torch.float64, device=None if like is None else like.device)
    A = as_operator(prior, like=like)
    if A.shape != (m, n) or A.batch:
        raise ShapeError(f"the prior must be one matrix or operator of shape ({m}, {n}), got {A}")
    matrix = A.matrix(max(m, n))
    return matrix if like is None else matrix.to(like.device)


def _sizes(blocks: Blocks | None, m: int, n: int) -> list[tuple[int, int]]:
    """The shapes of the blocks, in order; a stack of them counts each."""
    if blocks is None:
        return [(m, n)]
    if isinstance(blocks, Integral):
        raise ShapeError(f"blocks must be a BlockDiagonal or a sequence of sizes, such as [{blocks}], got {blocks}")
    sizes: list[tuple[int, int]] = []
    if isinstance(blocks, BlockDiagonal):
        for core in blocks.cores:
            sizes += [core.shape] * (core.batch[0] if core.batch else 1)
    else:
        sizes = [(block, block) if isinstance(block, int | np.integer) else block for block in blocks]
        if not all(isinstance(size, tuple) and len(size) == 2 for size in sizes):
            raise ShapeError(f"the blocks of a core are given as sizes (m_j, n_j), or n_j for (n_j, n_j), got {blocks}")
    if (sum(k for k, _ in sizes), sum(j for _, j in sizes)) != (m, n) or min(map(min, sizes)) < 1:
        raise ShapeError(f"the shapes of the blocks must add up to that of the core, ({m}, {n}), got {sizes}")
    return sizes


def _places(sizes: list[tuple[int, int]]) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of each block."""
    i = j = 0
    for height, width in sizes:
        yield slice(i, i + height), slice(j, j + width)
        i, j = i + height, j + width
