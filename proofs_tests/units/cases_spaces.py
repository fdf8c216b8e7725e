"""Errors of spaces, subspaces and the methods of Linearizers that analyse."""

import torch
from torch import nn

from induced import EuclideanSpace, InducedSpace, ProductSpace, Subspace
from induced.bijections import Affine, Log, Logit, real_nvp
from induced.errors import DomainError, DtypeError, ShapeError, SpaceMismatch
from induced.operators import Dense, LowRank
from induced.operators.bases import orthonormal_columns
from induced.subspaces import principal_components
from proofs_tests.device import StandIn
from proofs_tests.units.case import Case

R2 = EuclideanSpace(2)
PAIR = ProductSpace(R2, EuclideanSpace(1))
LINE = Subspace(R2, torch.eye(2)[:, :1])
OTHER = Subspace(InducedSpace(Log((2,))), torch.eye(2)[:, :1])


def without_float64() -> object:
    with StandIn(float64=False) as gpu:
        return Affine((2,), 2.0).to(gpu.device)


CASES = [
    Case(DtypeError, r"this device has no float64, .*: keep the model and its points on the CPU", without_float64),
    Case(ShapeError, r"sides >= 0, got the shape \(2, -3\)", lambda: EuclideanSpace((2, -3))),
    Case(
        DtypeError,
        r"the chart of an InducedSpace is a Bijection, got Linear: .*from_callables",
        lambda: InducedSpace(nn.Linear(2, 2)),  # type: ignore[arg-type]
    ),
    Case(
        DtypeError,
        r"points that meet have one dtype and device, got torch.float32 on cpu and torch.float64 on cpu",
        lambda: R2.add(torch.ones(2), torch.ones(2).double()),
    ),
    Case(
        ShapeError,
        r"one scalar per sample has the shape \(\*batch,\), here \(3,\), got \(3, 1\): pass that shape, or one with as many",
        lambda: R2.scale(torch.ones(3, 1), torch.ones(3, 2)),
    ),
    Case(
        DtypeError,
        r"one scalar per sample has the dtype of the coordinates, torch.float32, got torch.float64: use a.to",
        lambda: R2.scale(torch.ones(3, dtype=torch.float64), torch.ones(3, 2)),
    ),
    Case(
        ShapeError,
        r"one weight per sample, after the first dimension, has the shape \(\*batch,\), here \(3,\), got \(3, 1\)",
        lambda: R2.combine(torch.ones(2, 3, 1), torch.ones(2, 3, 2)),
    ),
    Case(
        DtypeError,
        r"the weights of combine are real numbers, got torch.complex64",
        lambda: R2.combine(torch.ones(2) * 1j, torch.ones(2, 2)),
    ),
    Case(ShapeError, r"the sides of a point must be integers, got \(2\.5,\)", lambda: EuclideanSpace((2.5,))),  # type: ignore[arg-type]
    Case(
        DomainError,
        r"a QR of the columns holds .* their norms overflow float64",
        lambda: EuclideanSpace(2).orthonormalize(torch.tensor([[1.5e308, 1.5e308], [1.0, 0.0]], dtype=torch.float64)),
    ),
    Case(
        DomainError,
        r"1 of the 2 values of the point given to EuclideanSpace\(\(2,\)\) are not finite",
        lambda: R2.metric(torch.tensor([1.0, float("nan")])),
    ),
    Case(DomainError, r"must lie in \(0, 1\)", lambda: InducedSpace(Logit((1,))).metric(torch.tensor([2.0]))),
    Case(ShapeError, r"a product of spaces needs at least one factor", lambda: ProductSpace()),
    Case(
        DtypeError,
        r"the factors of a product hold parameters of one dtype and device, got .*torch.float32.*torch.float64",
        lambda: ProductSpace(InducedSpace(real_nvp(2)), InducedSpace(real_nvp(2).double())),
    ),
    Case(ShapeError, r"this product has 2 factors, got 1 parts", lambda: PAIR.join(torch.ones(2))),
    Case(
        ShapeError,
        r"a part in EuclideanSpace\(\(1,\)\) must have shape \(\*batch, 1\), got \(2,\)",
        lambda: PAIR.join(torch.ones(2), torch.ones(2)),
    ),
    Case(ShapeError, r"the columns of one matrix \(n, k\), got shape \(3,\)", lambda: orthonormal_columns(torch.ones(3))),
    Case(
        ShapeError,
        r"a basis of a subspace of EuclideanSpace\(\(2,\)\) has shape \(2, k\), k <= 2, got \(3, 1\)",
        lambda: Subspace(R2, torch.ones(3, 1)),
    ),
    Case(
        DomainError,
        r"the columns of Q must be orthonormal, but Q\^T Q - I has an entry of size 1: give .*span",
        lambda: Subspace(R2, torch.ones(2, 1)),
    ),
    Case(
        DomainError,
        r"the columns of Q must be orthonormal, but Q\^T Q - I has an entry of size 3: give .*span",
        lambda: Subspace(R2, Dense(2 * torch.eye(2))),
    ),
    Case(
        DomainError,
        r"the columns of Q must be orthonormal, but Q\^T Q - I has an entry of size",
        lambda: Subspace(R2, LowRank(torch.ones(2, 1), torch.ones(2, 1))),
    ),
    Case(
        ShapeError,
        r"a basis of a subspace of .* has shape \(2, k\), k <= 2, got \(3, 2, 1\)",
        lambda: Subspace(R2, Dense(torch.ones(3, 2, 1))),
    ),
    Case(
        ShapeError,
        r"points that span a subspace have the shape \(k, 2\), got \(2,\)",
        lambda: Subspace.span(R2, torch.ones(2)),
    ),
    Case(
        DomainError,
        r"the dimension of a span is decided by values, which under torch.vmap differ from sample to sample: use a loop",
        lambda: torch.func.vmap(lambda p: Subspace.span(R2, p).project(p))(torch.ones(3, 2, 2)),
    ),
    Case(DtypeError, r"the point: got torch.float64 on cpu", lambda: LINE.contains(torch.ones(2).double())),
    Case(
        SpaceMismatch,
        r"both print as Subspace.* but hold different basis operator objects: use the same basis operator object in both",
        lambda: LINE(torch.ones(2)) + Subspace(R2, LINE.Q)(torch.ones(2)),
    ),
    Case(DomainError, r"a trained basis does not stay orthonormal", lambda: Subspace(R2, Dense(nn.Parameter(torch.eye(2))))),
    Case(
        DomainError,
        r"a trained basis does not stay orthonormal: give its values, Q.detach\(\)",
        lambda: Subspace(R2, nn.Parameter(torch.eye(2)[:, :1])),
    ),
    Case(
        DtypeError,
        r"the basis of the subspace is torch.float64 on cpu, its space torch.float32 on cpu: convert one of them",
        lambda: Subspace(InducedSpace(real_nvp(2)), torch.eye(2).double()),
    ),
    Case(DtypeError, r"the point: got torch.float64 on cpu, expected torch.float32", lambda: LINE.coords(torch.ones(2).double())),
    Case(ShapeError, r"coordinates of the subspace must have shape .* got \(2,\)", lambda: LINE.point(torch.ones(2))),
    Case(DomainError, r"rtol, the sine of an angle, must be a finite number >= 0, got -1", lambda: LINE.sum(LINE, rtol=-1)),
    Case(
        DomainError,
        r"rtol, a cut-off relative to the largest singular value, must be a finite number >= 0, got inf",
        lambda: Subspace.span(R2, torch.eye(2), rtol=float("inf")),
    ),
    Case(
        ShapeError,
        r"the scores must have shape \(\*batch, 1\), got \(2,\)",
        lambda: principal_components(R2, torch.rand(5, 2), 1).point(torch.ones(2)),
    ),
    Case(
        SpaceMismatch,
        r"& needs subspaces of one space, got EuclideanSpace.* and InducedSpace.*, which differ",
        lambda: LINE & OTHER,
    ),
    Case(
        SpaceMismatch,
        r"an angle needs subspaces of one space",
        lambda: LINE.angles(OTHER),
    ),
    Case(
        SpaceMismatch,
        r"\+ needs subspaces of one space, got EuclideanSpace.* and InducedSpace.*, which differ",
        lambda: LINE + OTHER,
    ),
    Case(
        ShapeError,
        r"5 points in 2 dimensions have at most 2 principal components, 3 were asked for",
        lambda: principal_components(R2, torch.rand(5, 2), 3),
    ),
]
