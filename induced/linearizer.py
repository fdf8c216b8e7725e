"""Linearizers: maps f = g_y^-1 A g_x that are exactly linear between two induced spaces."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import final, overload

import scipy.sparse.linalg
from torch import Tensor

import induced.operators as ops
from induced._module import ByValue, Module, reference
from induced._registry import saved_as
from induced._validate import require_one_kind
from induced.errors import DtypeError, ShapeError, SpaceMismatch
from induced.operators import LinearOperator, LowRank
from induced.operators.invariants import Norm
from induced.operators.linalg import Inverse, image_span, kernel_span
from induced.operators.rules import Scalar, is_zero
from induced.serialization.pretrained import Pretrained
from induced.spaces import HilbertSpace, Vector
from induced.spaces.hilbert import difference
from induced.spectrum import Spectrum
from induced.subspaces import Subspace


class LinearizerOperator(Module, ABC):
    """A map f : X -> Y between Hilbert spaces that is `Y.point(A(X.coords(x)))` for a linear core A.

    The obligations are the properties `domain`, `codomain` and `core`. Every operation below acts on the core and swaps
    or joins the spaces. Note what f is not: additive for the ordinary + of tensors.

    Law:
        `f(X.combine((a, b), (u, v))) == Y.combine((a, b), (f(u), f(v)))` (Prop 2.4; laws/test_linearizer.py)
    """

    @property
    @abstractmethod
    def domain(self) -> HilbertSpace:
        """The space X of inputs."""

    @property
    @abstractmethod
    def codomain(self) -> HilbertSpace:
        """The space Y of outputs."""

    @property
    @abstractmethod
    def core(self) -> LinearOperator:
        """The linear map A between the coordinates."""

    @overload
    def __call__(self, x: Tensor) -> Tensor: ...
    @overload
    def __call__(self, x: Vector) -> Vector: ...
    def __call__(self, x: Tensor | Vector) -> Tensor | Vector:
        return super().__call__(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor | Vector) -> Tensor | Vector:
        """f(x) = g_y^-1(A g_x(x)), for points (*batch, *shape) or a Vector of the domain.

        Raises:
            SpaceMismatch: a Vector of another space than the domain came.
            ShapeError, DtypeError, DomainError: x is not a point of the domain, or f(x) overflows the codomain's chart.
        """
        if isinstance(x, Vector):
            if x.space != self.domain:
                raise SpaceMismatch(f"this map takes vectors of its domain, got {difference(self.domain, x.space)}")
            return Vector(self.codomain, coords=self.core(x.coords))
        return self.codomain.point(self.core(self.domain.coords(x)))

    def _endomorphism(self, what: str) -> None:
        if self.domain != self.codomain:
            raise SpaceMismatch(f"{what} needs one space on both sides, got {difference(self.domain, self.codomain)}")

    @property
    def H(self) -> "LinearizerOperator":
        """Adjoint f* = g_x^-1 A^T g_y for the inner products of the two spaces.

        Law:
            `Y.inner(f(x), y) == X.inner(x, f.H(y))` (Prop 2.8; laws/test_linearizer.py)
        """
        return Linearizer(self.core.H, self.codomain, self.domain)

    @property
    def inv(self) -> "LinearizerOperator":
        """f^-1 = g_x^-1 A^-1 g_y, factorised on first use.

        Raises:
            NotSquare: the core is not square. SingularOperator, on use: it has no inverse at its precision.
        """
        core = self.core.operator if isinstance(self.core, Inverse) else Inverse(self.core)
        return Linearizer(core, self.codomain, self.domain)

    def pinv(self, rtol: float | None = None) -> "LinearizerOperator":
        """Moore-Penrose inverse f+ = g_x^-1 A+ g_y; singular values up to rtol * ||A|| (by default those of rounding) are 0.

        Law:
            `f f+ f = f`, `f+ f f+ = f+`, `(f f+)* = f f+`, `(f+ f)* = f+ f` (Lemma 4.1; laws/test_linearizer.py)
        """
        return Linearizer(ops.pinv(self.core, rtol), self.codomain, self.domain)

    def solve(self, y: Tensor, rtol: float | None = None) -> Tensor:
        """The point x of least ||x|| among those that bring f(x) nearest to y: g_x^-1(A+ g_y(y)), without forming A+.

        Law:
            `f(solve(y))` projects y onto `image()`, and `solve(y)` is orthogonal to `kernel()` (laws/test_analysis.py)
        """
        return self.domain.point(ops.solve(self.core, self.codomain.coords(y), rtol))

    def svd(self, rank: int | None = None) -> "SVD":
        """The singular triplets of f for the inner products of its spaces: all min(m, n), or the `rank` largest.

        Law:
            `f(v_i) == s_i (.) u_i` with both sets orthonormal (Prop 2.9; laws/test_linearizer.py)
        """
        return SVD(*ops.svd(self.core, rank), self.domain, self.codomain)

    def polar(self) -> "tuple[LinearizerOperator, LinearizerOperator]":
        """(u, p) with f = u p: p = (f* f)^{1/2} on the domain, u a partial isometry from the domain to the codomain.

        Law:
            `u(p(x)) == f(x)`, `p.H` is p, and `<u(x), u(y)> == <x, y>` for x, y in the range of p (laws/test_analysis.py)
        """
        Q, P = ops.polar(self.core)
        return Linearizer(Q, self.domain, self.codomain), Linearizer(P, self.domain)

    def kernel(self, rtol: float | None = None) -> Subspace:
        """The subspace {x : f(x) = 0} of the domain; singular values up to rtol * ||A|| count as zero.

        Law:
            `f(x) == 0` for its points, and `kernel().dim + rank() == domain.dim` (laws/test_analysis.py)
        """
        return Subspace(self.domain, *kernel_span(self.core, rtol))

    def image(self, rtol: float | None = None) -> Subspace:
        """The subspace {f(x)} of the codomain; singular values up to rtol * ||A|| count as zero.

        Law:
            `image().contains(f(x))`, and `image()` is the complement of `H.kernel()` (laws/test_analysis.py)
        """
        return Subspace(self.codomain, *image_span(self.core, rtol))

    def rank(self, rtol: float | None = None) -> int:
        """The number of singular values above rtol * ||A||; by default as in `pinv`."""
        return ops.rank(self.core, rtol)

    def norm(self, kind: Norm = "spectral") -> Tensor:
        """The operator norm sup ||f(x)|| / ||x||, or the "frobenius" or "nuclear" one of the core."""
        return ops.norm(self.core, kind)

    def cond(self) -> Tensor:
        """The condition number, the largest singular value over the least; inf where f has a kernel or misses a direction."""
        return ops.cond(self.core)

    def abs_det(self) -> Tensor:
        """|det A|: the factor by which f changes volume, between spaces of one dimension."""
        return ops.det(self.core).abs()

    def det(self) -> Tensor:
        """det A, which no change of chart alters. Between two spaces only `abs_det` has a meaning.

        Raises:
            SpaceMismatch: the domain is not the codomain.
        """
        self._endomorphism("the determinant (only its absolute value, abs_det, has a meaning between two)")
        return ops.det(self.core)

    def trace(self) -> Tensor:
        """tr A, which no change of chart alters.

        Raises:
            SpaceMismatch: the domain is not the codomain.
        """
        self._endomorphism("the trace")
        return ops.trace(self.core)

    def spectrum(self) -> Spectrum:
        """The eigenvalues, complex, and the real invariant subspaces that belong to them.

        Raises:
            SpaceMismatch: the domain is not the codomain.

        Law:
            `f(x) == a (.) x` on the subspace of a simple real eigenvalue a (laws/test_analysis.py)
        """
        self._endomorphism("the spectrum")
        return Spectrum(ops.eigenvalues(self.core), self.core, self.domain)

    def exp(self, t: Scalar = 1.0) -> "LinearizerOperator":
        """exp(t f) = g^-1 exp(t A) g, a one-parameter group.

        Raises:
            SpaceMismatch: the domain is not the codomain.
        """
        self._endomorphism("exp")
        return Linearizer(ops.exp(self.core, t), self.domain)

    def sqrt(self) -> "LinearizerOperator":
        """The principal square root: `f.sqrt() @ f.sqrt()` is f. Raises as `function`."""
        self._endomorphism("sqrt")
        return Linearizer(ops.sqrt(self.core), self.domain)

    def log(self) -> "LinearizerOperator":
        """The principal logarithm: `f.log().exp()` is f. Not its converse: log(exp f) = f only where |Im lambda| < pi.

        Raises as `function`.
        """
        self._endomorphism("log")
        return Linearizer(ops.log(self.core), self.domain)

    def resolvent(self, s: float) -> "LinearizerOperator":
        """(s I - f)^-1.

        Raises:
            SpaceMismatch: the domain is not the codomain. SingularOperator: s is an eigenvalue.
        """
        self._endomorphism("the resolvent")
        return Linearizer(ops.resolvent(self.core, s), self.domain)

    def function(self, phi: Callable[[Tensor], Tensor]) -> "LinearizerOperator":
        """phi(f) = g^-1 phi(A) g for an analytic function phi.

        Arguments:
            phi: the scalar function, entry by entry on complex tensors; analytic at the eigenvalues.

        Raises:
            SpaceMismatch: the domain is not the codomain. DomainError: phi(A) is not real, or does not exist.

        Law:
            `f.function(torch.exp)` is `f.exp()`, and phi(f) commutes with f (laws/test_analysis.py)
        """
        self._endomorphism("a function")
        return Linearizer(ops.function(self.core, phi), self.domain)

    def to_scipy(self) -> "scipy.sparse.linalg.LinearOperator":
        """The core between coordinates as a scipy operator, for `scipy.sparse.linalg`; without gradients."""
        return ops.to_scipy(self.core)

    def __matmul__(self, other: "LinearizerOperator") -> "LinearizerOperator":
        """Composition: L(g_y, g_z, A2) L(g_x, g_y, A1) = L(g_x, g_z, A2 A1) (Prop 2.5).

        Raises:
            SpaceMismatch: the codomain of the right factor is not the domain of the left one.
        """
        if not isinstance(other, LinearizerOperator):
            return NotImplemented
        if other.codomain != self.domain:
            raise SpaceMismatch(f"f @ h needs h to end where f starts, got {difference(other.codomain, self.domain)}")
        return Linearizer(self.core @ other.core, other.domain, self.codomain)

    def __add__(self, other: "LinearizerOperator") -> "LinearizerOperator":
        """The sum L(A_f + A_h) of two maps between the same spaces: (f + h)(x) = f(x) (+) h(x)."""
        if not isinstance(other, LinearizerOperator):
            return NotImplemented
        for side, mine, theirs in (("domain", self.domain, other.domain), ("codomain", self.codomain, other.codomain)):
            if mine != theirs:
                raise SpaceMismatch(f"f + h needs one {side}, got {difference(mine, theirs)}")
        return Linearizer(self.core + other.core, self.domain, self.codomain)

    def __radd__(self, zero: object) -> "LinearizerOperator":
        return self if is_zero(zero) else NotImplemented

    def __sub__(self, other: "LinearizerOperator") -> "LinearizerOperator":
        return self + (-other) if isinstance(other, LinearizerOperator) else NotImplemented

    def __neg__(self) -> "LinearizerOperator":
        return self * -1.0

    def __mul__(self, a: Scalar) -> "LinearizerOperator":
        """The scaled map x -> a (.) f(x), of core a A."""
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        return Linearizer(self.core * a, self.domain, self.codomain)

    __rmul__ = __mul__

    def __truediv__(self, a: Scalar) -> "LinearizerOperator":
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        return Linearizer(self.core / a, self.domain, self.codomain)

    def __pow__(self, p: float) -> "LinearizerOperator":
        """f^p = g^-1 A^p g (eq. 4): 0 is the identity, -k the inverse's, no integer the principal power.

        Raises:
            SpaceMismatch: the domain is not the codomain. SingularOperator: p < 0 is an integer and the core has no inverse.
            DomainError: p is no finite real number, or A^p is not real.
        """
        self._endomorphism("a power")
        return Linearizer(ops.power(self.core, p), self.domain)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.core!r}: {self.domain!r} -> {self.codomain!r})"


@final
@saved_as("Linearizer", "core", "domain", "codomain")
class Linearizer(LinearizerOperator, Pretrained):
    """f = g_y^-1 A g_x (Def 2.1); `save_pretrained(folder)` and `from_pretrained(folder)` keep it on disk.

    Arguments:
        core: the operator A of shape (codomain.dim, domain.dim), or what `as_operator` makes one: a tensor or array, a scipy
            or pylops operator, anything with `shape`, `matvec` and `rmatvec`.
        domain: the space X.
        codomain: the space Y; the domain where left out.

    Raises:
        ShapeError: the core's shape does not fit the spaces.
        DtypeError: core and spaces hold parameters of different dtype or device.

    Example:
        >>> import torch
        >>> from induced import InducedSpace
        >>> from induced.bijections import Log
        >>> X = InducedSpace(Log((2,)))
        >>> f = Linearizer(torch.tensor([[1.0, 1.0], [0.0, 2.0]]), X)   # (x, y) -> (x y, y^2)
        >>> f(torch.tensor([2.0, 3.0]))
        tensor([6., 9.])
    """

    def __init__(self, core: object, domain: HilbertSpace, codomain: HilbertSpace | None = None) -> None:
        super().__init__()
        operator = ops.as_operator(core)
        codomain = domain if codomain is None else codomain
        for side, space in (("domain", domain), ("codomain", codomain)):
            if not isinstance(space, HilbertSpace):
                raise DtypeError(f"the {side} of a Linearizer is a HilbertSpace, e.g. InducedSpace(chart), got {space!r}")
            require_one_kind("the core", reference(operator), f"the {side}'s chart", reference(space))
        if operator.shape != (expected := (codomain.dim, domain.dim)):
            raise ShapeError(f"a core from {domain!r} to {codomain!r} has shape {expected}, got {operator.shape}")
        self._modules.update(core=operator, domain=domain, codomain=domain if codomain == domain else codomain)  # one module

    @staticmethod
    def inclusion(subspace: Subspace) -> "Linearizer":
        """The map i(x) = x of a subspace W into its space; `i.H` projects onto W, `i.H @ f @ i` restricts a map f to it.

        Law:
            `i.H @ i` is the identity of W, `i @ i.H` is `projection(W)` (laws/test_subspaces.py)
        """
        return Linearizer(subspace.frame, subspace, subspace.space)

    @staticmethod
    def projection(subspace: Subspace) -> "Linearizer":
        """The orthogonal projection g^-1 Q Q^T g onto a subspace, an operator of its space.

        Law:
            `p(p(x)) == p(x)`, `p.H` is p, and p(x) is the nearest point of the subspace (laws/test_analysis.py)
        """
        return Linearizer(subspace.projector(), subspace.space)

    @property
    def domain(self) -> HilbertSpace:
        return self._modules["domain"]  # type: ignore[return-value]

    @property
    def codomain(self) -> HilbertSpace:
        return self._modules["codomain"]  # type: ignore[return-value]

    @property
    def core(self) -> LinearOperator:
        return self._modules["core"]  # type: ignore[return-value]


@final
class SVD(ByValue):
    """f = sum_i s_i (.) u_i <v_i, .>; `values` (k,) descend, U (m, k) and V (n, k) are coordinates, decoded when asked for."""

    def __init__(self, U: Tensor, values: Tensor, V: Tensor, domain: HilbertSpace, codomain: HilbertSpace) -> None:
        self.U, self.values, self.V, self.domain, self.codomain = U, values, V, domain, codomain

    def _first(self, factor: Tensor, k: int | None) -> Tensor:
        count = self.values.shape[0] if k is None else k
        if not 0 <= count <= self.values.shape[0]:
            raise ShapeError(f"this SVD holds {self.values.shape[0]} triplets, {count} were asked for")
        return factor[:, :count].mT

    def left(self, k: int | None = None) -> Tensor:
        """The first k left singular vectors as points of the codomain, of shape (k, *shape)."""
        return self.codomain.point(self._first(self.U, k))

    def right(self, k: int | None = None) -> Tensor:
        """The first k right singular vectors as points of the domain, of shape (k, *shape)."""
        return self.domain.point(self._first(self.V, k))

    def truncate(self, rank: int) -> Linearizer:
        """The best approximation of f of this rank (Eckart-Young in the induced geometry)."""
        U, V = self._first(self.U, rank).mT, self._first(self.V, rank).mT
        return Linearizer(LowRank(U * self.values[:rank], V), self.domain, self.codomain)

    def reconstruct(self) -> Linearizer:
        """The map of all triplets held."""
        return self.truncate(self.values.shape[0])

    def __repr__(self) -> str:
        return f"SVD({self.values.shape[0]} triplets: {self.domain!r} -> {self.codomain!r})"
