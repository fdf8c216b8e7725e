"""Errors of the charts of constrained sets, of lattices, and of those that move entries."""

import torch

from induced.bijections import (
    Affine,
    DirectSum,
    InverseSoftplus,
    LatticeCoupling,
    Log,
    PixelShuffle,
    PositiveDefinite,
    RandomSplit,
    Simplex,
    Squeeze,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.errors import DomainError, DtypeError, ShapeError
from proofs_tests.registry import conditional
from proofs_tests.units.case import Case

SIMPLEX, MATRICES = Simplex(3), PositiveDefinite(2)
CONDITIONAL = conditional(real_nvp(2, 1, 4, context=1))
LATTICE = LatticeCoupling((2,), MLP(1, 1, 4), bits=12)
IN_FLOAT32 = r"a lattice coupling with bits=12 is exact for \|z\| < 2\^\(24 - 12\) = 4096 in torch.float32, got a value of size "

CASES = [
    Case(ShapeError, r"the sides of a chart must be integers, got \(2\.5,\)", lambda: Log((2.5,))),  # type: ignore[arg-type]
    Case(ShapeError, r"the sides of a chart must be integers, got \(3\.5,\)", lambda: Simplex(3.5)),  # type: ignore[arg-type]
    Case(DtypeError, "the scale of an affine chart is real, got torch.complex64", lambda: Affine((2,), torch.tensor(1j))),
    Case(
        DtypeError, "a context must be a floating point tensor, got torch.complex64", lambda: CONDITIONAL.at(torch.tensor([1j]))
    ),
    Case(DtypeError, "the point of a PositiveDefinite chart is torch.bfloat16", lambda: MATRICES(torch.eye(2).bfloat16())),
    Case(
        DtypeError,
        "a PositiveDefinite chart is torch.float16",
        lambda: MATRICES.inverse(torch.ones(3).half()),
    ),
    Case(
        ShapeError,
        r"a direct sum takes charts of vectors .*, got Squeeze of \(1, 2, 2\) -> \(4, 1, 1\); Flatten makes vectors",
        lambda: DirectSum(Squeeze((1, 2, 2))),
    ),
    Case(ShapeError, r"a direct sum takes charts of vectors .* got none", DirectSum),
    Case(ShapeError, r"the sides of a chart are at least 1, got \(1,\) -> \(0,\)", lambda: Simplex(1)),
    Case(
        DomainError,
        r"the parts of a composition must lie in the positive numbers, but 1 of 3 value\(s\) do not, the first being 0",
        lambda: SIMPLEX(torch.tensor([0.5, 0.5, 0.0])),
    ),
    Case(
        DomainError,
        r"a composition has sum 1, but one of the 2 given is off by 0.5: divide each by its sum",
        lambda: SIMPLEX(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.5]])),
    ),
    Case(DomainError, r"a composition has sum 1, but .* off by 1e-05", lambda: SIMPLEX(torch.tensor([0.5, 0.5, 1e-5]))),
    Case(
        DomainError,
        r"the composition of the coordinates must lie in the positive numbers, .*: keep \|z\| smaller",
        lambda: SIMPLEX.inverse(torch.tensor([200.0, 0.0])),
    ),
    Case(
        DomainError,
        r"a point of a PositiveDefinite chart is symmetric, but x and its transpose differ by 0.5 at entries up to 2: symm",
        lambda: MATRICES(torch.tensor([[2.0, 0.5], [0.0, 1.0]])),
    ),
    Case(
        DomainError,
        r"positive definite, but one of the 3 given has the smallest eigenvalue -1 \(largest 3\)",
        lambda: MATRICES(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]).expand(3, 2, 2)),
    ),
    Case(DomainError, r"smallest eigenvalue 0 .* a condition above 8e\+06", lambda: MATRICES(torch.zeros(2, 2))),
    Case(
        DomainError,
        r"the coordinates must lie in the logarithms of definite matrices, .*: keep \|z\| smaller, or use float64",
        lambda: MATRICES.inverse(torch.tensor([30.0, 30.0, -30.0])),
    ),
    Case(
        DomainError,
        r"the point of an InverseSoftplus chart must lie in the positive numbers",
        lambda: InverseSoftplus(())(torch.tensor(0.0)),
    ),
    Case(
        DomainError,
        r"the softplus of the coordinates must lie in the positive numbers, .*: keep \|z\| smaller",
        lambda: InverseSoftplus(()).inverse(torch.tensor(-1000.0)),
    ),
    Case(
        DomainError, IN_FLOAT32 + r"4096: use fewer bits, smaller values or float64", lambda: LATTICE(torch.tensor([4096.0, 0.0]))
    ),
    Case(DomainError, IN_FLOAT32 + r"5000", lambda: LATTICE.inverse(torch.tensor([5000.0, 0.0]))),
    Case(DomainError, IN_FLOAT32 + r"nan", lambda: LATTICE(torch.tensor([torch.nan, 0.0]))),
    Case(
        DomainError,
        r"2\^\(53 - 50\) = 8 in torch.float64",
        lambda: LatticeCoupling((1,), MLP(0, 1, 4), bits=50)(torch.tensor([9.0]).double()),
    ),
    Case(
        ShapeError,
        r"Squeeze takes points of shape \(C, H, W\) with factor 3 dividing H and W, got \(1, 3, 4\)",
        lambda: Squeeze((1, 3, 4), 3),
    ),
    Case(ShapeError, r"PixelShuffle takes .* C a multiple of 4, got \(6, 2, 2\)", lambda: PixelShuffle((6, 2, 2))),
    Case(
        ShapeError,
        r"RandomSplit takes points of shape \(C, H, W\) with even H and W, got \(1, 3, 4\)",
        lambda: RandomSplit((1, 3, 4)),
    ),
]
