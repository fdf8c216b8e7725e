"""Errors of spaces, operators, families and Linearizers."""

import torch
from torch import Tensor, nn

import induced
from induced import EuclideanSpace, InducedSpace, Linearizer, Report, Vector
from induced._validate import require_finite
from induced.bijections import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Arctanh,
    Bijection,
    Composition,
    ConditionalComposition,
    Conv1x1,
    Identity,
    Log,
    Logit,
    Sinh,
    Squeeze,
    from_callables,
    glow,
    real_nvp,
)
from induced.bijections.conditional import ConditionalActNorm
from induced.bijections.networks import MLP
from induced.checks import check_space, require
from induced.errors import (
    DomainError,
    DtypeError,
    InducedError,
    LawViolation,
    MissingDeterminant,
    NotSquare,
    ShapeError,
    SingularOperator,
    SpaceMismatch,
)
from induced.operators import Dense, Diagonal, LowRank, ScaledIdentityPlusLowRank, exp, inverse, power, svd
from induced.operators.linalg import Inverse
from induced.propagators import LowRankFamily, SharedBasisFamily, integrate, propagator
from proofs_tests.registry import conditional
from proofs_tests.units.case import Case


class NoDeterminant(Bijection):
    """A chart that gives no determinant."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, z: Tensor) -> Tensor:
        return z


R2, R3 = EuclideanSpace(2), EuclideanSpace(3)
POSITIVE = InducedSpace(Log((2,)))
WIDE, SQUARE, SQUARE_64 = Dense(torch.ones(2, 3)), Dense(torch.eye(2)), Dense(torch.eye(2).double())
BATCH = Dense(torch.ones(5, 2, 2))
FAMILY = LowRankFamily(3, 1, 4)
U, V = torch.ones(6, 1), torch.ones(6, 1)


def linear(A: Tensor, X: induced.HilbertSpace = R2, Y: induced.HilbertSpace | None = None) -> Linearizer:
    return Linearizer(A, X, Y)


CASES = [
    # points and coordinates
    Case(DtypeError, r"a point of the space must be a torch.Tensor, got list", lambda: R2.coords([1.0, 2.0])),  # type: ignore[arg-type]
    Case(ShapeError, r"a point of the space must have shape \(\*batch, 2\), got \(4, 3\)", lambda: R2.coords(torch.ones(4, 3))),
    Case(ShapeError, r"coordinates of the space must have shape \(\*batch, 2\), got \(\)", lambda: R2.point(torch.ones(()))),
    Case(DtypeError, r"floating point tensor, got torch.int64: convert it", lambda: R2.coords(torch.ones(2, dtype=torch.int64))),
    Case(
        DtypeError,
        r"the point: got torch.float64 on cpu, expected torch.float32 on cpu, as what it is combined with: convert one of them",
        lambda: InducedSpace(real_nvp(2)).coords(torch.ones(2).double()),
    ),
    Case(
        DtypeError,
        r"the coordinates: got torch.float64 on cpu|the coordinates are torch.float64",
        lambda: InducedSpace(real_nvp(2)).point(torch.ones(2).double()),
    ),
    Case(
        DomainError,
        r"the batch holds 1 non-finite value\(s\) out of 2: look",
        lambda: require_finite(torch.tensor([1.0, torch.nan]), "the batch"),
    ),
    Case(
        DomainError,
        r"1 of the 2 values of the point given to EuclideanSpace\(\(2,\)\) are not finite",
        lambda: R2.coords(torch.tensor([1.0, torch.inf])),
    ),
    Case(
        DomainError,
        r"InducedSpace\(Sinh\(1,\)\) finds no finite coordinates for the point, of size 100: .*float64",
        lambda: InducedSpace(Sinh((1,))).coords(torch.tensor([100.0])),
    ),
    Case(
        DomainError,
        r"finds no finite point for the coordinates, of size 2: the chart gives nan there, .* no bijection onto R\^n",
        lambda: InducedSpace(from_callables(torch.exp, torch.log, (1,))).point(torch.tensor([-2.0])),
    ),
    # charts
    Case(ShapeError, r"the sides of a chart are at least 1, got \(0,\) -> \(0,\)", lambda: Identity((0,))),
    Case(
        MissingDeterminant,
        r"NoDeterminant has no log\|det J\|: implement forward_and_log_abs_det",
        lambda: NoDeterminant((2,)).log_abs_det(torch.ones(2)),
    ),
    Case(ShapeError, r"a composition needs at least one chart", lambda: Composition()),
    Case(ShapeError, r"a composition needs at least one chart", lambda: ConditionalComposition()),
    Case(
        ShapeError,
        r"Log gives coordinates of shape \(2,\), but Logit takes points of shape \(3,\)",
        lambda: Logit((3,)) @ Log((2,)),
    ),
    Case(
        DomainError,
        r"must lie in the positive numbers, but 1 of 2 value\(s\) do not, the first being -3",
        lambda: Log((2,))(torch.tensor([1.0, -3.0])),
    ),
    Case(
        DomainError,
        r"exp of the coordinates must lie in the positive numbers.*keep \|z\| smaller, or use float64",
        lambda: Log((1,)).inverse(torch.tensor([200.0])),
    ),
    Case(
        DomainError, r"the point of a Logit chart must lie in \(0, 1\), but 1 of 1 .* being 1", lambda: Logit((1,))(torch.ones(1))
    ),
    Case(DomainError, r"the sigmoid of the coordinates must lie in \(0, 1\)", lambda: Logit((1,)).inverse(torch.tensor([40.0]))),
    Case(DomainError, r"the point of an Arctanh chart must lie in \(-1, 1\)", lambda: Arctanh((1,))(torch.tensor([-1.0]))),
    Case(DomainError, r"the tanh of the coordinates must lie in \(-1, 1\)", lambda: Arctanh((1,)).inverse(torch.tensor([20.0]))),
    Case(
        ShapeError,
        r"the scale of shape \(3,\) does not broadcast to a point of shape \(2,\)",
        lambda: Affine((2,), torch.ones(3)),
    ),
    Case(
        DomainError, r"the scale of an affine chart must be finite and non-zero", lambda: Affine((2,), torch.tensor([1.0, 0.0]))
    ),
    Case(ShapeError, r"a 1x1 convolution acts on points of shape \(C, H, W\), got \(3,\)", lambda: Conv1x1((3,))),
    Case(ShapeError, r"Squeeze takes points of shape \(C, H, W\) with even H and W, got \(1, 3, 4\)", lambda: Squeeze((1, 3, 4))),
    Case(
        ShapeError,
        r"flipped coupling .* which is empty for shape \(1,\)",
        lambda: AdditiveCoupling((1,), MLP(1, 1, 2), flip=True),
    ),
    Case(
        ShapeError,
        r"the conditioner of AffineCoupling must return shape \(5, 4\) for a kept half .*\(5, 2\), got \(5, 3\)",
        lambda: AffineCoupling((4,), nn.Linear(2, 3))(torch.ones(5, 4)),
    ),
    Case(
        ShapeError,
        r"at least two values a channel, got a batch of shape \(1, 3\)",
        lambda: ActNorm((3,)).initialize(torch.ones(1, 3)),
    ),
    Case(
        ShapeError,
        r"at least two values a channel, got a batch of shape \(0, 3\)",
        lambda: ActNorm((3,)).initialize(torch.ones(0, 3)),
    ),
    Case(
        InducedError,
        r"this ActNorm has not been initialised: call chart.initialize\(batch\) once",
        lambda: ActNorm((3,))(torch.ones(3)),
    ),
    Case(
        InducedError,
        r"this ConditionalActNorm has not been initialised",
        lambda: ConditionalActNorm((3,), 1).at(0.0)(torch.ones(3)),
    ),
    Case(
        InducedError,
        r"ConditionalActNorm is a chart for each context: .*, g\.at\(context\)\(x\)",
        lambda: ConditionalActNorm((3,), 1)(torch.ones(3)),
    ),
    Case(ShapeError, r"real_nvp needs dim >= 1 and blocks >= 1, got dim=0, blocks=6", lambda: real_nvp(0)),
    Case(ShapeError, r"glow needs .* got shape=\(1, 4, 4\), levels=3, blocks=2, width=32", lambda: glow((1, 4, 4), 2, levels=3)),
    Case(
        ShapeError,
        r"a context is a number or a tensor of shape \(\*batch, k\)",
        lambda: conditional(real_nvp(2, context=1)).at(torch.tensor(1.0)),
    ),
    Case(
        ShapeError,
        r"initialised at one context of shape \(k,\), got \(4, 1\)",
        lambda: ConditionalActNorm((2,), 1).at(torch.ones(4, 1)).initialize(torch.ones(4, 2)),
    ),
    # spaces and vectors
    Case(
        ShapeError,
        r"as many weights as points, at least one; got 1 weights, points \(2, 2\)",
        lambda: R2.combine([1.0], [torch.ones(2)] * 2),
    ),
    Case(ShapeError, r"at least one; got 0 weights", lambda: R2.combine([], [])),
    Case(
        ShapeError,
        r"the mean of points needs a first dimension of length >= 1, got shape \(0, 2\)",
        lambda: R2.mean(torch.ones(0, 2)),
    ),
    Case(ShapeError, r"a Vector needs its point or its coordinates", lambda: Vector(R2)),
    Case(
        TypeError, r"a Vector is immutable; make a new one with space\(point\)", lambda: setattr(R2(torch.ones(2)), "space", R3)
    ),
    Case(TypeError, r"a Vector is one element of its space and is not iterable", lambda: list(R2(torch.ones(2)))),
    Case(
        SpaceMismatch,
        r"\+ joins vectors of one space, got EuclideanSpace\(\(2,\)\) and InducedSpace\(Log\(2,\)\), which differ",
        lambda: R2(torch.ones(2)) + POSITIVE(torch.ones(2)),
    ),
    # operators
    Case(ShapeError, r"an operator has the shape \(m, n\) of its matrix, got \(2,\)", lambda: _Shapeless()),
    Case(ShapeError, r"a \(6, 6\) matrix exceeds limit=5; pass matrix\(limit=6\)", lambda: LowRank(U, V).matrix(limit=5)),
    Case(ShapeError, r"a \(6, 6\) matrix exceeds limit=5", lambda: Diagonal(torch.ones(6)).matrix(limit=5)),
    Case(ShapeError, r"operators of shapes \(2, 3\) and \(2, 2\) cannot be added: Dense\(", lambda: WIDE + SQUARE),
    Case(ShapeError, r"operators of shapes \(2, 3\) and \(2, 2\) do not compose: Dense\(", lambda: WIDE @ SQUARE),
    Case(
        DtypeError,
        r"A \+ B takes operators of one dtype and device, got torch.float32 on cpu and torch.float64 on cpu: convert",
        lambda: SQUARE + SQUARE_64,
    ),
    Case(DtypeError, r"A @ B takes operators of one dtype and device, got .*A.to\(torch.float64\)", lambda: SQUARE @ SQUARE_64),
    Case(DomainError, r"an operator was divided by 0: Dense\(shape=\(2, 2\)\) / 0", lambda: SQUARE / 0),
    Case(DomainError, r"A \*\* p takes a finite real number p, got inf", lambda: SQUARE ** float("inf")),
    Case(NotSquare, r"a power needs a square operator, got shape \(2, 3\): Dense\(", lambda: WIDE**2),
    Case(
        ShapeError,
        r"the matrix of a Dense operator must be a tensor of shape \(\*batch, m, n\), got \(3,\)",
        lambda: Dense(torch.ones(3)),
    ),
    Case(ShapeError, r"the diagonal must be a tensor of shape \(\*batch, n\), got \(\)", lambda: Diagonal(torch.tensor(1.0))),
    Case(
        ShapeError, r"of one dtype and device, got \(6, 1\) torch.float32 cpu and \(6, 2\)", lambda: LowRank(U, torch.ones(6, 2))
    ),
    Case(ShapeError, r"is square, but U and V have 6 and 4 rows", lambda: ScaledIdentityPlusLowRank(1.0, U, torch.ones(4, 1))),
    Case(NotSquare, r"the inverse needs a square operator, got shape \(2, 3\)", lambda: inverse(WIDE)),
    Case(NotSquare, r"the inverse needs a square operator, got shape \(2, 3\)", lambda: Inverse(WIDE)),
    Case(NotSquare, r"a power needs a square operator, got shape \(2, 3\)", lambda: power(WIDE, 0)),
    Case(NotSquare, r"the exponential needs a square operator, got shape \(2, 3\)", lambda: exp(WIDE)),
    Case(ShapeError, r"takes coordinates of shape \(\*batch, 2\), got \(5,\)", lambda: SQUARE(torch.ones(5))),
    Case(
        DtypeError,
        r"holds torch.float32 on cpu and takes .* that dtype and device, got torch.float64",
        lambda: SQUARE(torch.ones(2).double()),
    ),
    Case(ShapeError, r"svd takes one operator, not a batch of them of shape \(5,\)", lambda: svd(BATCH)),
    Case(ShapeError, r"rank of an svd of an operator of shape \(2, 3\) .* 0..2, got 3", lambda: svd(WIDE, 3)),
    Case(ShapeError, r"rank of an svd of an operator of shape \(2, 3\) .* 0..2, got 1.5", lambda: svd(WIDE, 1.5)),  # type: ignore[arg-type]
    Case(SingularOperator, r"an operator of rank 1 on 6 coordinates has no inverse; use pinv", lambda: inverse(LowRank(U, V))),
    Case(
        SingularOperator,
        r"the operator is singular at torch.float32: a singular value is 0; pinv .*: Diagonal\(",
        lambda: inverse(Diagonal(torch.tensor([1.0, 0.0]))),
    ),
    Case(
        SingularOperator,
        r"singular at torch.float32: its least singular value, 0, is no larger .*; use pinv, or float64: Dense",
        lambda: inverse(Dense(torch.ones(2, 2))),
    ),
    Case(SingularOperator, r"the operator is singular at torch.float32", lambda: inverse(ScaledIdentityPlusLowRank(0.0, U, V))),
    Case(
        SingularOperator, r"the operator is singular at torch.float32", lambda: inverse(ScaledIdentityPlusLowRank(1.0, -U / 6, V))
    ),
    # families and propagators
    Case(ShapeError, r"a family acts on at least one coordinate, got dim=0", lambda: LowRankFamily(0, 0)),
    Case(ShapeError, r"the rank of a family on 3 coordinates lies in 0..3, got 4", lambda: LowRankFamily(3, 4)),
    Case(
        DomainError, r"rest_std is a standard deviation and must be positive, got 0.0", lambda: LowRankFamily(3, 1, rest_std=0.0)
    ),
    Case(ShapeError, r"the rank of a family on 3 coordinates lies in 0..3, got 4", lambda: SharedBasisFamily(3, 4)),
    Case(DomainError, r"unknown integrator 'rk5'; known are euler, .*midpoint, rk4", lambda: propagator(FAMILY, method="rk5")),
    Case(
        DomainError,
        r"the number of steps is a whole number of at least 1, got 0",
        lambda: integrate(FAMILY, torch.ones(3), steps=0),
    ),
    Case(DomainError, r"a whole number of at least 1, got 2.5", lambda: propagator(FAMILY, steps=2.5)),  # type: ignore[arg-type]
    # linearizers
    Case(
        SpaceMismatch,
        r"this map takes vectors of its domain.* EuclideanSpace\(\(2,\)\) and InducedSpace\(Log\(2,\)\), which differ",
        lambda: linear(torch.eye(2))(POSITIVE(torch.ones(2))),
    ),
    Case(
        SpaceMismatch,
        r"exp needs one space on both sides, got .*\(\(3,\)\) and .*\(\(2,\)\), which differ",
        lambda: linear(torch.ones(2, 3), R3, R2).exp(),
    ),
    Case(SpaceMismatch, r"a power needs one space on both sides", lambda: linear(torch.eye(2), R2, POSITIVE) ** 2),
    Case(
        SpaceMismatch,
        r"f @ h needs h to end where f starts.* InducedSpace\(Log\(2,\)\) and EuclideanSpace\(\(2,\)\), which differ",
        lambda: linear(torch.eye(2)) @ linear(torch.eye(2), R2, POSITIVE),
    ),
    Case(
        SpaceMismatch,
        r"f \+ h needs one codomain, got EuclideanSpace.* and InducedSpace.*, which differ",
        lambda: linear(torch.eye(2)) + linear(torch.eye(2), R2, POSITIVE),
    ),
    Case(
        SpaceMismatch,
        r"f \+ h needs one domain, got EuclideanSpace.* and InducedSpace.*, which differ",
        lambda: linear(torch.eye(2)) - linear(torch.eye(2), POSITIVE, R2),
    ),
    Case(
        SpaceMismatch,
        r"two spaces that both print as InducedSpace\(Log\(2,\)\) but hold different chart objects: use the same chart object",
        lambda: linear(torch.eye(2), POSITIVE) + linear(torch.eye(2), InducedSpace(Log((2,)))),
    ),
    Case(DomainError, r"A \*\* p takes a finite real number p, got nan", lambda: linear(torch.eye(2)) ** float("nan")),
    Case(
        DtypeError,
        r"the domain of a Linearizer is a HilbertSpace, e.g. InducedSpace\(chart\), got 2",
        lambda: linear(torch.eye(2), 2),  # type: ignore[arg-type]
    ),
    Case(DtypeError, r"the codomain of a Linearizer is a HilbertSpace, .* got 2", lambda: linear(torch.eye(2), R2, 2)),  # type: ignore[arg-type]
    Case(NotSquare, r"the inverse needs a square operator, got shape \(2, 3\)", lambda: linear(torch.ones(2, 3), R3, R2).inv),
    Case(
        ShapeError,
        r"a core from EuclideanSpace\(\(3,\)\) to EuclideanSpace\(\(2,\)\) has shape \(2, 3\), got \(3, 2\)",
        lambda: linear(torch.ones(3, 2), R3, R2),
    ),
    Case(
        DtypeError,
        r"the core is torch.float64 on cpu, the domain's chart torch.float32",
        lambda: linear(torch.eye(2).double(), InducedSpace(real_nvp(2))),
    ),
    Case(ShapeError, r"this SVD holds 2 triplets, 3 were asked for", lambda: linear(torch.eye(2)).svd().left(3)),
    # checks
    Case(LawViolation, r"1 of 1 laws do not hold:\n.*a law", lambda: require(Report("a law", "", 1.0, 0.0))),
    Case(
        ShapeError,
        r"a law needs at least one sample, of shape \(k, 2\) with k >= 1; got \(0, 2\)",
        lambda: check_space(R2, torch.ones(0, 2)),
    ),
]


class _Shapeless(induced.LinearOperator):
    """An operator that gives its base a wrong shape."""

    def __init__(self) -> None:
        super().__init__((2,))

    def forward(self, z: Tensor) -> Tensor:
        return z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w
