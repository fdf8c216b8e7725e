"""The objects under every law: charts and spaces with samples of their points, and cores that reproduce their matrix.

Enrolling a class here puts it under every test of laws/. What is special about a chart or a core is said in its entry.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform

from induced import EuclideanSpace, HilbertSpace, InducedSpace, ProductSpace, Subspace
from induced.bijections import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Arctanh,
    Bijection,
    Composition,
    ConditionalBijection,
    ConditionalDirectSum,
    Conv1x1,
    DirectSum,
    Flatten,
    Identity,
    InverseSoftplus,
    LatticeCoupling,
    Linear,
    Log,
    Logit,
    PixelShuffle,
    PositiveDefinite,
    RandomSplit,
    RationalQuadraticCoupling,
    Reversible,
    Simplex,
    Sinh,
    Squeeze,
    from_callables,
    from_transform,
    glow,
    real_nvp,
)
from induced.bijections.conditional import ConditionalActNorm, ConditionalCoupling
from induced.bijections.networks import MLP, ConvNet, UNet
from induced.bijections.reshape import Blocks
from induced.operators import (
    LU,
    BlockCirculant,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Orthogonal,
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
    SkewExponential,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.interop import ForeignOperator
from induced.operators.linalg import Inverse
from induced.propagators import OperatorFamily
from induced.propagators.propagate import Stepwise

DTYPES = (torch.float32, torch.float64)


def agree(actual: Tensor, expected: Tensor, condition: float = 1.0) -> None:
    """Assert one shape, one dtype, and a difference of at most 100 * eps * condition times the norm of what is expected.

    `condition` is that of the problem, said by the caller; the norm is over all entries, and at least that of a unit vector.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{actual.dtype}, expected {expected.dtype}"
    bound = 100 * torch.finfo(expected.dtype).eps * condition * max(1.0, float(expected.detach().norm()))
    difference = float((actual - expected).detach().norm())
    assert difference <= bound, f"differs by {difference:.3g}, rounding explains {bound:.3g}"


def grad_of(leaf: Tensor) -> Tensor:
    """The gradient that arrived at a leaf."""
    assert leaf.grad is not None
    return leaf.grad


# --------------------------------------------------------------------------------------------------------------- charts
@dataclass(frozen=True)
class ChartCase:
    """A chart and where its points are drawn: uniformly in (low, high), at a distance from the edge of the domain.

    With a `spread` they are drawn in coordinates instead, g^-1(z) for normal z of that deviation; `by_dtype` says that `build`
    takes the dtype.
    """

    name: str
    build: Callable[..., Bijection]
    low: float = -2.0
    high: float = 2.0
    spread: float = 0.0
    by_dtype: bool = False
    is_inverse: bool = False
    only_moves_entries: bool = False

    def make(self, dtype: torch.dtype = torch.float64) -> Bijection:
        """The chart in this dtype; data-dependent parts are initialised before."""
        chart: Bijection = (self.build(dtype) if self.by_dtype else self.build()).to(dtype)
        return chart

    def points(self, chart: Bijection, batch: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Points (*batch, *shape) of the chart's domain."""
        if self.spread:
            with torch.no_grad():
                return chart.inverse(self.spread * torch.randn((*batch, *chart.coord_shape), dtype=dtype))
        return torch.empty((*batch, *chart.shape), dtype=dtype).uniform_(self.low, self.high)

    @property
    def square(self) -> bool:
        """Whether a point has as many entries as coordinates."""
        chart = self.build()
        return math.prod(chart.shape) == math.prod(chart.coord_shape)

    def __str__(self) -> str:
        return self.name


Module = TypeVar("Module", bound=nn.Module)


def shaken(module: Module, size: float = 0.15) -> Module:
    """The module with noise on each parameter, so that a network is as far from its start as a trained one."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def initialized(chart: Bijection) -> Bijection:
    """The chart after `initialize` on a batch with mean and spread far from 0 and 1."""
    chart.initialize(3 * torch.randn(16, *chart.shape) + 1)
    return chart


def _conditional_actnorm() -> Bijection:
    parent = ConditionalActNorm((3, 2, 2), context=1)
    parent.at(0.0).initialize(torch.randn(8, 3, 2, 2) * 2 + 1)
    parent.at(1.0).initialize(torch.randn(8, 3, 2, 2) / 2 - 1)
    return parent.at(1.0)


def conditional(chart: Bijection | ConditionalBijection) -> ConditionalBijection:
    """The chart, which takes a context."""
    assert isinstance(chart, ConditionalBijection)
    return chart


def _conditional_glow() -> Bijection:
    parent = conditional(glow((2, 4, 4), blocks=1, width=4, context=1))
    for time in (0.0, 1.0):
        parent.at(time).initialize(torch.randn(8, 2, 4, 4))
    return shaken(parent, 0.05).at(1.0)


def _conditional_unet_glow() -> Bijection:
    parent = conditional(glow((2, 4, 4), blocks=1, width=4, context=2, conditioner=partial(UNet, norm=False)))
    for context in (torch.zeros(2), torch.ones(2)):
        parent.at(context).initialize(torch.randn(8, 2, 4, 4))
    return shaken(parent, 0.05).at(torch.tensor([0.5, -1.0]))


def _lattice(dtype: torch.dtype = torch.float64, *, flip: bool = False) -> Bijection:
    """A lattice coupling of 1024 or 2048 units, and a step at which the tolerances of float64 still see a wrong law."""
    kept, bits = 3 if flip else 2, 14 if dtype == torch.float32 else 42
    return LatticeCoupling((5,), shaken(MLP(kept, 5 - kept, 8)), flip=flip, bits=bits)


CHARTS = [
    ChartCase("Identity", lambda: Identity((3,)), only_moves_entries=True),
    ChartCase("Identity of images", lambda: Identity((2, 3, 1)), only_moves_entries=True),
    ChartCase("Affine", lambda: Affine((3,), torch.tensor([2.0, -0.5, 1.0]), 3.0)),
    ChartCase("Affine with parameters", lambda: Affine((2,), nn.Parameter(torch.tensor([2.0, -0.5])))),
    ChartCase("Log", lambda: Log((4,)), 0.3, 3.0),
    ChartCase("Log of a number", lambda: Log(()), 0.3, 3.0),
    ChartCase("Logit", lambda: Logit((4,)), 0.2, 0.8),
    ChartCase("Arctanh", lambda: Arctanh((3,)), -0.6, 0.6),
    ChartCase("Sinh", lambda: Sinh((3,))),
    ChartCase("InverseSoftplus", lambda: InverseSoftplus((4,)), 0.3, 3.0),
    ChartCase("Simplex", lambda: Simplex(5), spread=0.7),
    ChartCase("Simplex of two parts", lambda: Simplex(2), spread=0.7),
    ChartCase("PositiveDefinite", lambda: PositiveDefinite(3), spread=0.4),
    ChartCase("PositiveDefinite of one number", lambda: PositiveDefinite(1), spread=0.5),
    ChartCase("Composition over the simplex", lambda: shaken(real_nvp(3, 2, 8)) @ Simplex(4), spread=0.7),
    ChartCase("LatticeCoupling", _lattice, by_dtype=True),
    ChartCase("LatticeCoupling flipped", lambda dtype=torch.float64: _lattice(dtype, flip=True), by_dtype=True),
    ChartCase(
        "Composition of lattice couplings",
        lambda dtype=torch.float64: Affine((5,), 1.5) @ _lattice(dtype, flip=True) @ _lattice(dtype),
        by_dtype=True,
    ),
    ChartCase("AffineCoupling", lambda: AffineCoupling((5,), shaken(MLP(2, 6, 8)))),
    ChartCase("AffineCoupling flipped", lambda: AffineCoupling((5,), shaken(MLP(3, 4, 8)), flip=True)),
    ChartCase("AdditiveCoupling", lambda: AdditiveCoupling((4,), shaken(MLP(2, 2, 8)))),
    ChartCase("AdditiveCoupling in dimension 1", lambda: AdditiveCoupling((1,), shaken(MLP(0, 1, 8)))),
    ChartCase(
        "RationalQuadraticCoupling", lambda: RationalQuadraticCoupling((5,), shaken(MLP(2, 33, 8)), bins=4, bound=1.5), -2.0, 2.0
    ),
    ChartCase(
        "RationalQuadraticCoupling of images",
        lambda: RationalQuadraticCoupling((3, 2, 2), shaken(ConvNet(2, 8, 4)), flip=True, bins=3),
    ),
    ChartCase("Reversible", lambda: Reversible(shaken(real_nvp(4, 3, 8)))),
    ChartCase(
        "Reversible with other layers", lambda: Reversible(initialized(glow((1, 4, 4), 1, 4)) @ shaken(Flatten((1, 4, 4)).inv))
    ),
    ChartCase("ActNorm", lambda: initialized(ActNorm((3,)))),
    ChartCase("ActNorm of images", lambda: initialized(ActNorm((2, 3, 4)))),
    ChartCase("Conv1x1", lambda: shaken(Conv1x1((3, 2, 4)))),
    ChartCase("Linear of a matrix", lambda: Linear(Dense(nn.Parameter(torch.eye(4) + torch.randn(4, 4) / 5)))),
    ChartCase("Linear of a matrix on images", lambda: Linear(Dense(torch.eye(3) + torch.randn(3, 3) / 5), (3, 2, 2))),
    ChartCase("Linear of an orthogonal matrix", lambda: Linear(Orthogonal(torch.linalg.qr(torch.randn(4, 4).double())[0]))),
    ChartCase("Linear of reflections", lambda: Linear(Householder(nn.Parameter(torch.randn(3, 4))))),
    ChartCase("Linear of a rotation of signals", lambda: Linear(SkewExponential(nn.Parameter(torch.randn(3, 3))), (3, 5))),
    ChartCase("Linear of an LU", lambda: Linear(shaken(LU(5)))),
    ChartCase("Linear of an LU on images", lambda: Linear(shaken(LU(3)), (3, 2, 2))),
    ChartCase("Linear of an LU in dimension 1", lambda: Linear(shaken(LU(1)))),
    ChartCase("Linear of a permutation", lambda: Linear(Permutation([2, 0, 3, 1])), only_moves_entries=True),
    ChartCase("Linear of a permutation of channels", lambda: Linear(Permutation([1, 2, 0]), (3, 2, 2)), only_moves_entries=True),
    ChartCase(
        "Linear of c I + U V^T", lambda: Linear(ScaledIdentityPlusLowRank(1.5, torch.randn(5, 1) / 3, torch.randn(5, 1) / 3))
    ),
    ChartCase("Squeeze", lambda: Squeeze((2, 4, 6)), only_moves_entries=True),
    ChartCase("Squeeze by 3", lambda: Squeeze((2, 3, 6), 3), only_moves_entries=True),
    ChartCase("PixelShuffle", lambda: PixelShuffle((8, 1, 3)), only_moves_entries=True),
    ChartCase("PixelShuffle by 3", lambda: PixelShuffle((9, 2, 1), 3), only_moves_entries=True),
    ChartCase("RandomSplit", lambda: RandomSplit((2, 4, 2)), only_moves_entries=True),
    ChartCase("Flatten", lambda: Flatten((2, 3)), only_moves_entries=True),
    ChartCase("Flatten of numbers", lambda: Flatten(()), only_moves_entries=True),
    ChartCase("Blocks", lambda: Blocks([(2, 1, 2), (2, 3, 2)], 1), only_moves_entries=True),
    ChartCase("Blocks of a stack", lambda: Blocks([(2, 3), (2, 3)], 2, stacked=True), only_moves_entries=True),
    ChartCase("DirectSum of simplices", lambda: DirectSum(Simplex(3), Simplex(4)), spread=0.7),
    ChartCase("Composition", lambda: shaken(real_nvp(4, 2, 8)) @ Flatten((2, 2)) @ Logit((2, 2)), 0.2, 0.8),
    ChartCase("Composition of compositions", lambda: Composition(Sinh((2,)) @ Affine((2,), -0.5), shaken(real_nvp(2, 2, 8)))),
    ChartCase("DirectSum", lambda: DirectSum(shaken(real_nvp(3, 2, 8)), Identity((2,)), Sinh((1,)))),
    ChartCase("Inverse of a chart", lambda: shaken(real_nvp(3, 2, 8)).inv, is_inverse=True),
    ChartCase("Inverse of a squeeze", lambda: Squeeze((1, 2, 2)).inv, is_inverse=True, only_moves_entries=True),
    ChartCase("real_nvp(1)", lambda: shaken(real_nvp(1, 3, 8))),
    ChartCase("real_nvp(2)", lambda: shaken(real_nvp(2, 4, 16))),
    ChartCase("real_nvp(5)", lambda: shaken(real_nvp(5, 4, 16))),
    ChartCase("glow of 1 channel", lambda: shaken(initialized(glow((1, 8, 8), 2, 4, levels=2)), 0.05)),
    ChartCase("glow of 3 channels", lambda: shaken(initialized(glow((3, 4, 4), 2, (4, 6), levels=2)), 0.05)),
    ChartCase("conditional chart at a number", lambda: conditional(shaken(real_nvp(3, 2, 8, context=1))).at(0.5)),
    ChartCase(
        "conditional chart at a tensor", lambda: conditional(shaken(real_nvp(3, 2, 8, context=2))).at(torch.tensor([0.5, -1.0]))
    ),
    ChartCase("conditional chart in dimension 1", lambda: conditional(shaken(real_nvp(1, 2, 8, context=1))).at(0.5)),
    ChartCase(
        "conditional additive coupling",
        lambda: ConditionalCoupling((4,), shaken(MLP(2, 2, 8, context=1)), flip=True, kind=AdditiveCoupling).at(2.0),
    ),
    ChartCase("conditional direct sum", lambda: ConditionalDirectSum(shaken(real_nvp(2, 2, 8, context=1)), Sinh((2,))).at(0.5)),
    ChartCase("ConditionalActNorm", _conditional_actnorm),
    ChartCase("conditional glow", _conditional_glow),
    ChartCase("U-Net coupling", lambda: AffineCoupling((3, 4, 6), shaken(UNet((2, 4, 6), 2, 4), 0.05), flip=True)),
    ChartCase("conditional glow of U-Nets", _conditional_unet_glow),
    ChartCase("torch transform", lambda: from_transform(AffineTransform(torch.tensor([1.0, 2.0]), -0.5), (2,))),
    ChartCase(
        "inverse of a torch transform",
        lambda: from_transform(AffineTransform(0.5, torch.tensor([2.0, -3.0])).inv, (2,)),
        is_inverse=True,
    ),
    ChartCase("callables", lambda: from_callables(torch.sinh, torch.asinh, (2,), log_abs_det=lambda x: x.cosh().log().sum(-1))),
]


# --------------------------------------------------------------------------------------------------------------- spaces
@dataclass(frozen=True)
class SpaceCase:
    """A space, made in a dtype, and how its points are drawn: decoded from normal coordinates where nothing is said."""

    name: str
    make: Callable[[torch.dtype], HilbertSpace]
    chart: ChartCase | None = None

    def points(self, X: HilbertSpace, batch: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Points (*batch, *shape) of the space."""
        if self.chart is not None and isinstance(X, InducedSpace):
            return self.chart.points(X.chart, batch, dtype)
        with torch.no_grad():
            return X.point(0.5 * torch.randn((*batch, X.dim), dtype=dtype))

    def __str__(self) -> str:
        return self.name


def of_chart(case: ChartCase) -> SpaceCase:
    """The space that a chart makes of its points."""
    return SpaceCase(case.name, lambda dtype: InducedSpace(case.make(dtype)), case)


def _within(X: HilbertSpace, k: int, dtype: torch.dtype) -> Subspace:
    """A subspace of dimension k, its points in general position."""
    return Subspace(X, torch.linalg.qr(torch.randn(X.dim, k, dtype=torch.float64))[0].to(dtype))


def _flow(dim: int, dtype: torch.dtype) -> InducedSpace:
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).to(dtype))


SPACES = [
    *map(of_chart, CHARTS),
    SpaceCase("Euclidean space of matrices", lambda dtype: EuclideanSpace((2, 3))),
    SpaceCase("product", lambda dtype: ProductSpace(_flow(3, dtype), EuclideanSpace((2, 2)), InducedSpace(Sinh(())))),
    SpaceCase("subspace of matrices", lambda dtype: _within(EuclideanSpace((2, 3)), 2, dtype)),
    SpaceCase("subspace of numbers", lambda dtype: _within(InducedSpace(Log(())), 1, dtype)),
    SpaceCase("subspace of compositions", lambda dtype: _within(InducedSpace(Simplex(5)), 2, dtype)),
    SpaceCase("subspace of covariances", lambda dtype: _within(InducedSpace(PositiveDefinite(3)), 3, dtype)),
    SpaceCase("subspace of a flow", lambda dtype: _within(_flow(5, dtype), 3, dtype)),
    SpaceCase("complement in a flow", lambda dtype: _within(_flow(5, dtype), 2, dtype).complement()),
    SpaceCase("subspace of a complement", lambda dtype: _within(_within(_flow(5, dtype), 1, dtype).complement(), 2, dtype)),
    SpaceCase("subspace of a product", lambda dtype: _within(ProductSpace(_flow(3, dtype), EuclideanSpace(2)), 2, dtype)),
    SpaceCase("the zero subspace", lambda dtype: _within(_flow(3, dtype), 0, dtype)),
    SpaceCase("all of a space as a subspace", lambda dtype: _within(_flow(3, dtype), 3, dtype)),
]


# ---------------------------------------------------------------------------------------------------------------- cores
@dataclass(frozen=True)
class CoreCase:
    """An operator built from a matrix, `make(M).matrix() == M`, and the matrices M for which that is so."""

    name: str
    draw: Callable[[], Tensor]
    build: Callable[[Tensor], LinearOperator]
    invertible: bool = True
    zero: bool = False

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A matrix, redrawn until its largest singular value is at most 20 times its smallest one that is not zero."""
        while True:
            M = self.draw()
            s = torch.linalg.svdvals(M)
            s = s[s > 1e-9 * s.sum()]
            if not len(s) or s.max() <= CONDITION * s.min():
                return M.to(dtype)

    def make(self, M: Tensor) -> LinearOperator:
        return self.build(M)

    def __str__(self) -> str:
        return self.name


Pads = Sequence[tuple[int, int]]
CONDITION = 20.0
N = 6


def _any(m: int, n: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(m, n, dtype=torch.float64)


def _of_rank(m: int, n: int, r: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(m, r, dtype=torch.float64) @ torch.randn(r, n, dtype=torch.float64)


def _shifted(n: int, c: float, r: int) -> Callable[[], Tensor]:
    return lambda: c * torch.eye(n, dtype=torch.float64) + _of_rank(n, n, r)()


def _diagonal(d: Sequence[float]) -> Callable[[], Tensor]:
    return lambda: torch.diag(torch.tensor(d, dtype=torch.float64))


def _factors(M: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """U (m, r) and V (n, r) with M = U V^T, for M of rank at most r; balanced by a random change of basis."""
    U, s, Vh = torch.linalg.svd(M.double(), full_matrices=False)
    Q = torch.linalg.qr(torch.randn(r, r, dtype=torch.float64))[0]
    return ((U[:, :r] * s[:r]) @ Q).to(M.dtype), (Vh[:r].mT @ Q).to(M.dtype)


def _low_rank(r: int) -> Callable[[Tensor], LinearOperator]:
    return lambda M: LowRank(*_factors(M, r))


def _shift_and_low_rank(c: float, r: int, *, as_tensor: bool = False) -> Callable[[Tensor], LinearOperator]:
    def build(M: Tensor) -> LinearOperator:
        U, V = _factors(M - c * torch.eye(len(M), dtype=M.dtype), r)
        return ScaledIdentityPlusLowRank(torch.tensor(c, dtype=M.dtype) if as_tensor else c, U, V)

    return build


def _sum(M: Tensor) -> LinearOperator:
    rest = torch.randn(M.shape).to(M.dtype)
    return Sum(Dense(M - rest), Adjoint(Dense(rest.mT.clone())))


def _product(M: Tensor) -> LinearOperator:
    Q = torch.linalg.qr(torch.randn(M.shape[1], M.shape[1], dtype=torch.float64))[0].to(M.dtype)
    return Product(Dense(M @ Q), Adjoint(Dense(Q)))


def _orthogonal() -> Tensor:
    return torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0]


def _reflections(M: Tensor) -> LinearOperator:
    """M as a product of reflections: the j-th moves the j-th column of what is left to the j-th unit vector."""
    rest, vectors = M.double().clone(), []
    for j in range(len(M)):
        v = rest[:, j] - torch.eye(len(M), dtype=torch.float64)[j]
        if v.norm() > 1e-6:
            vectors.append(v)
            rest = rest - 2 * torch.outer(v, v @ rest) / (v @ v)
    return Householder(torch.stack(vectors).to(M.dtype))


def _rotation() -> Tensor:
    S = torch.randn(N, N, dtype=torch.float64) / 3
    return torch.linalg.matrix_exp(S - S.mT)


class Frozen(OperatorFamily):
    """A family that does not depend on time, so that one Euler step of unit length is I + A."""

    def __init__(self, A: Tensor) -> None:
        super().__init__(len(A))
        self.A = Dense(A)

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.A


def _generator(M: Tensor) -> Tensor:
    return torch.from_numpy(scipy.linalg.logm(M.double().numpy()).real).to(M.dtype)


Padding = Literal["zeros", "circular", "reflect", "replicate"]


def convolution_matrix(kernel: Tensor, shape: Sequence[int], pads: Pads, mode: str, stride: int = 1, groups: int = 1) -> Tensor:
    """The matrix of a convolution, entry by entry: numpy pads the numbers of the pixels, and each tap is added where it reads."""
    channels, *size = shape
    place = np.arange(int(np.prod(size))).reshape(size)
    names: dict[str, Literal["wrap", "reflect", "edge"]] = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
    place = np.pad(place, pads, constant_values=-1) if mode == "zeros" else np.pad(place, pads, mode=names[mode])
    out = [(n - k) // stride + 1 for n, k in zip(place.shape, kernel.shape[2:], strict=True)]
    M = torch.zeros(kernel.shape[0], *out, channels, int(np.prod(size)), dtype=kernel.dtype)
    for o, i, *tap in np.ndindex(*kernel.shape):
        source = o // (kernel.shape[0] // groups) * kernel.shape[1] + i
        for p in np.ndindex(*out):
            read = place[tuple(stride * a + b for a, b in zip(p, tap, strict=True))]
            if read >= 0:
                M[(o, *p, source, read)] += kernel[(o, i, *tap)]
    return M.reshape(kernel.shape[0] * int(np.prod(out)), -1)


def _convolution(
    name: str, kernel: Sequence[int], shape: Sequence[int], pads: Pads, mode: Padding, stride: int = 1, groups: int = 1
) -> "CoreCase":
    """A case of a geometry: kernels are read off a matrix by least squares against the matrices of single taps."""

    def matrix(K: Tensor) -> Tensor:
        return convolution_matrix(K, shape, pads, mode, stride, groups)

    def build(M: Tensor) -> LinearOperator:
        taps = torch.eye(int(np.prod(kernel)), dtype=torch.float64).reshape(-1, *kernel)
        units = torch.stack([matrix(tap).flatten() for tap in taps], -1)
        K = torch.linalg.lstsq(units, M.double().flatten().unsqueeze(-1)).solution.reshape(*kernel)
        return Convolution(K.to(M.dtype), shape, padding=pads, mode=mode, stride=stride, groups=groups)

    square = shape[0] == kernel[0] and matrix(torch.ones(*kernel, dtype=torch.float64)).shape[0] == int(np.prod(shape))
    return CoreCase(name, lambda: matrix(torch.randn(*kernel, dtype=torch.float64)), build, invertible=square)


def _response(M: Tensor, out: int, channels: int, size: Sequence[int]) -> Tensor:
    """What a unit at the first pixel of each channel gives."""
    return M.reshape(out, -1, channels, int(np.prod(size)))[..., 0].movedim(-1, 1).reshape(out, channels, *size)


def _circulant(name: str, out: int, channels: int, size: Sequence[int]) -> "CoreCase":
    kernel, pads = (out, channels, *size), [(0, n - 1) for n in size]
    return CoreCase(
        name,
        lambda: convolution_matrix(torch.randn(*kernel, dtype=torch.float64), (channels, *size), pads, "circular"),
        lambda M: BlockCirculant.of(_response(M, out, channels, size), len(size)),
    )


def _blocks(*shapes: tuple[int, int]) -> Callable[[], Tensor]:
    return lambda: torch.block_diag(*(torch.randn(*shape, dtype=torch.float64) for shape in shapes))


def _direct_sum(*cores: tuple[tuple[int, int], Callable[[Tensor], LinearOperator]]) -> Callable[[Tensor], LinearOperator]:
    """Each core is built of the block of its shape; `_stack` of several of one shape."""

    def build(M: Tensor) -> LinearOperator:
        made, i, j = [], 0, 0
        for (m, n), core in cores:
            made.append(core(M[i : i + m, j : j + n].clone()))
            i, j = i + m, j + n
        return BlockDiagonal(*made)

    return build


def _stack(k: int) -> Callable[[Tensor], LinearOperator]:
    """k blocks of one shape, side by side in one tensor."""

    def build(M: Tensor) -> LinearOperator:
        m, n = M.shape[0] // k, M.shape[1] // k
        return Dense(torch.stack([M[j * m : (j + 1) * m, j * n : (j + 1) * n] for j in range(k)]))

    return build


def _turning() -> Tensor:
    """Turns by any angle, one of them by half a turn."""
    numbers = [(0.5, 2.0), (-1.5, 0.0), (1.0, -0.5)]
    return torch.block_diag(*(torch.tensor([[a, -b], [b, a]], dtype=torch.float64) for a, b in numbers))


def _selection(m: int, n: int) -> Callable[[], Tensor]:
    return lambda: torch.eye(n, dtype=torch.float64)[torch.randperm(n)[:m]]


SQUARE_CORES = [
    CoreCase("Dense", _any(N, N), Dense),
    CoreCase("Dense singular", _of_rank(N, N, 3), Dense, invertible=False),
    CoreCase("Diagonal", _diagonal((2.0, -1.0, 0.5, 2.0, -2.0, 3.0)), lambda M: Diagonal(M.diagonal())),
    CoreCase("Diagonal singular", _diagonal((2.0, 0.0, -1.0, 0.0, 2.0, 1.0)), lambda M: Diagonal(M.diagonal()), invertible=False),
    CoreCase("LowRank of rank 0", _of_rank(N, N, 0), _low_rank(0), invertible=False, zero=True),
    CoreCase("LowRank of rank 1", _of_rank(N, N, 1), _low_rank(1), invertible=False),
    CoreCase("LowRank of rank 2 in 4 columns", _of_rank(N, N, 2), _low_rank(4), invertible=False),
    CoreCase("LowRank of rank 1 in 3 columns", _of_rank(N, N, 1), _low_rank(3), invertible=False),
    CoreCase("LowRank of full rank", _of_rank(N, N, N), _low_rank(N)),
    CoreCase("c I + U V^T", _shifted(N, 2.0, 2), _shift_and_low_rank(2.0, 2)),
    CoreCase("c I + U V^T, c < 0", _shifted(N, -0.5, 2), _shift_and_low_rank(-0.5, 2)),
    CoreCase("c I + U V^T, c = 0", _shifted(N, 0.0, 2), _shift_and_low_rank(0.0, 2, as_tensor=True), invertible=False),
    CoreCase("c I", _shifted(N, -3.0, 0), _shift_and_low_rank(-3.0, 0, as_tensor=True)),
    CoreCase("c I + U V^T, 2r >= n", _shifted(N, 1.5, 4), _shift_and_low_rank(1.5, 4)),
    CoreCase(
        "c I + U V^T, singular", lambda: torch.eye(N).double() - _projection(1), _shift_and_low_rank(1.0, 1), invertible=False
    ),
    CoreCase("Adjoint", _any(N, N), lambda M: Adjoint(Dense(M.mT.clone()))),
    CoreCase("Sum", _any(N, N), _sum),
    CoreCase("Product", _any(N, N), _product),
    CoreCase("ForeignOperator", _any(N, N), lambda M: ForeignOperator(M.detach().numpy())),
    CoreCase("Stepwise", _any(N, N), lambda M: Stepwise(Frozen(M - torch.eye(N, dtype=M.dtype)), steps=1, method="euler")),
    CoreCase("Scaled", _any(N, N), lambda M: Scaled(-2.5, Dense(M / -2.5))),
    CoreCase("Inverse", _any(N, N), lambda M: Inverse(Dense(torch.linalg.inv(M)))),
    CoreCase("Inverse of c I + U V^T", _shifted(N, 0.5, 1), lambda M: Inverse(_shift_and_low_rank(2.0, 1)(torch.linalg.inv(M)))),
    CoreCase("Orthogonal", _orthogonal, Orthogonal),
    CoreCase("Householder", _orthogonal, _reflections),
    CoreCase("SkewExponential", _rotation, lambda M: SkewExponential(_generator(M))),
    CoreCase("Permutation", lambda: torch.eye(N).double()[torch.randperm(N)], lambda M: Permutation(M.argmax(-1), M.dtype)),
    CoreCase("LU", _any(N, N), LU.of),
    CoreCase(
        "Projection", _diagonal((1.0, 0.0, 1.0, 1.0, 0.0, 1.0)), lambda M: Projection(M.diagonal().clone()), invertible=False
    ),
    CoreCase(
        "BlockDiagonal",
        lambda: torch.block_diag(_any(2, 2)(), _diagonal((2.0, -1.0))(), _any(1, 1)(), _any(1, 1)()),
        _direct_sum(((2, 2), Dense), ((2, 2), lambda M: Diagonal(M.diagonal())), ((2, 2), _stack(2))),
    ),
    CoreCase("BlockDiagonal of a batch", _blocks((3, 3), (3, 3)), _direct_sum(((N, N), _stack(2)))),
    CoreCase(
        "BlockDiagonal of rectangles",
        _blocks((2, 3), (4, 3)),
        _direct_sum(((2, 3), Dense), ((4, 3), Dense)),
        invertible=False,
    ),
    CoreCase("RotationScaling", _turning, lambda M: RotationScaling(M[::2, ::2].diagonal(), M[1::2, ::2].diagonal())),
    CoreCase("Selection", _selection(N, N), lambda M: Selection(M.argmax(-1), N, M.dtype)),
    _convolution("Convolution", (1, 1, 3, 2), (1, 2, 3), [(1, 1), (0, 1)], "zeros"),
    _convolution("Convolution, circular", (2, 2, 2), (2, 3), [(0, 1)], "circular"),
    _convolution("Convolution, circular, by channel", (2, 1, 3), (2, 3), [(1, 1)], "circular", groups=2),
    _convolution("Convolution, circular, of an image", (1, 1, 1, 2), (1, 2, 3), [(0, 0), (1, 0)], "circular"),
    _convolution("Convolution, reflect", (1, 1, 4), (1, 6), [(1, 2)], "reflect"),
    _convolution("Convolution, replicate", (2, 2, 3), (2, 3), [(2, 0)], "replicate"),
    _circulant("BlockCirculant", 2, 2, (3,)),
    _circulant("BlockCirculant of an image", 1, 1, (2, 3)),
]

CORES = [
    *SQUARE_CORES,
    CoreCase("Orthogonal of one number", _diagonal((-1.0,)), Orthogonal),
    CoreCase("Permutation of one number", _diagonal((1.0,)), lambda M: Permutation(M.argmax(-1), M.dtype)),
    CoreCase("LU of one number", _diagonal((-2.0,)), LU.of),
    _convolution("Convolution, stride 2", (2, 1, 3, 3), (1, 4, 3), [(1, 1), (1, 1)], "zeros", stride=2),
    _convolution("Convolution, stride 3, replicate", (1, 2, 2), (2, 6), [(0, 1)], "replicate", stride=3),
    _convolution("Convolution, no padding", (2, 1, 3), (1, 4), [(0, 0)], "zeros"),
    _convolution("Convolution, circular, to one channel", (1, 2, 2), (2, 4), [(1, 0)], "circular"),
    _convolution("Convolution of one pixel", (1, 1, 1), (1, 1), [(0, 0)], "circular"),
    _circulant("BlockCirculant tall", 2, 1, (2, 2)),
    CoreCase("Dense tall", _any(6, 4), Dense),
    CoreCase("Dense wide", _any(3, 5), Dense),
    CoreCase("Dense of one number", _any(1, 1), Dense),
    CoreCase("Dense of one row", _any(1, 4), Dense),
    CoreCase("Diagonal of one number", _diagonal((-2.0,)), lambda M: Diagonal(M.diagonal())),
    CoreCase("LowRank tall", _of_rank(7, 4, 2), _low_rank(2)),
    CoreCase("LowRank wide", _of_rank(4, 7, 1), _low_rank(1)),
    CoreCase("LowRank wide of rank 0", _of_rank(4, 7, 0), _low_rank(0), zero=True),
    CoreCase("LowRank of one number", _of_rank(1, 1, 1), _low_rank(1)),
    CoreCase("c I + U V^T of one number", _shifted(1, 2.0, 1), _shift_and_low_rank(2.0, 1)),
    CoreCase("c I of one number", _shifted(1, -2.0, 0), _shift_and_low_rank(-2.0, 0)),
    CoreCase("Sum wide", _any(3, 5), _sum),
    CoreCase("Product tall", _any(5, 3), _product),
    CoreCase("Adjoint wide", _any(3, 5), lambda M: Adjoint(Dense(M.mT.clone()))),
    CoreCase(
        "BlockDiagonal wide",
        lambda: torch.block_diag(_any(1, 2)(), _any(1, 2)(), _of_rank(2, 3, 1)()),
        _direct_sum(((2, 4), _stack(2)), ((2, 3), _low_rank(1))),
    ),
    CoreCase("BlockDiagonal tall, of a batch", _blocks((3, 2), (3, 2)), _direct_sum(((6, 4), _stack(2)))),
    CoreCase("RotationScaling of one number", lambda: _turning()[:2, :2], lambda M: RotationScaling(M[:1, 0], M[1:, 0])),
    CoreCase("Selection wide", _selection(3, 5), lambda M: Selection(M.argmax(-1), 5, M.dtype)),
]


def _projection(r: int) -> Tensor:
    """The orthogonal projection onto r random directions of R^N."""
    Q = torch.linalg.qr(torch.randn(N, r, dtype=torch.float64))[0]
    return Q @ Q.mT
