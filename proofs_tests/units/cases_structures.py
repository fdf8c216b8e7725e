"""Errors of orthogonal, triangular and convolution operators, of projections and of linear charts."""

from typing import Any

import torch
from torch import Tensor, nn

from induced.bijections import Conv1x1, Linear
from induced.errors import DomainError, DtypeError, NotSquare, ShapeError, SingularOperator
from induced.operators import (
    LU,
    BlockCirculant,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    Orthogonal,
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
    SkewExponential,
    inverse,
)
from proofs_tests.units.case import Case


def _signal(kernel: Tensor, length: int = 4, **options: Any) -> Convolution:
    return Convolution(kernel, (1, length), **options)


ONES = torch.ones(1, 1, 3)

CASES = [
    Case(ShapeError, r"an orthogonal matrix has the shape \(n, n\), got \(2, 3\)", lambda: Orthogonal(torch.ones(2, 3))),
    Case(DomainError, r"does not stay orthogonal: use Householder\(V\) or Skew", lambda: Orthogonal(nn.Parameter(torch.eye(2)))),
    Case(
        DomainError,
        r"an entry of Q\^T Q - I is 3, rounding explains 2.38e-06; torch.linalg.qr",
        lambda: Orthogonal(2 * torch.eye(2)),
    ),
    Case(
        ShapeError, r"of k reflections of R\^n have the shape \(k, n\), got \(1, 2, 2\)", lambda: Householder(torch.ones(1, 2, 2))
    ),
    Case(DomainError, r"one of the 2 rows of V is", lambda: Householder(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))),
    Case(ShapeError, r"generator of .* has the shape \(n, n\), got \(2, 3\)", lambda: SkewExponential(torch.ones(2, 3))),
    Case(DtypeError, "an index holds integers, got torch.float32", lambda: Permutation([1.5, 0.5])),  # type: ignore[list-item]
    Case(DtypeError, "an index holds integers, got torch.bool", lambda: Selection(torch.tensor([True, False]), 2)),
    Case(
        DtypeError,
        r"the number c of c I \+ U V\^T must be a floating point tensor, got torch.complex64",
        lambda: ScaledIdentityPlusLowRank(torch.tensor(1j), torch.ones(2, 1), torch.ones(2, 1)),
    ),
    *(
        Case(DtypeError, "what a linear chart takes must be a floating point tensor, got torch.complex64", act)
        for act in (
            lambda: Linear(Dense(torch.eye(2)))(1j * torch.ones(2)),
            lambda: Linear(Dense(torch.eye(2))).inverse(1j * torch.ones(2)),
            lambda: Conv1x1((2, 1, 1))(1j * torch.ones(2, 1, 1)),
        )
    ),
    Case(DomainError, r"a permutation of 3 coordinates holds each of 0..2 once, got \[0, 2, 2\]", lambda: Permutation([0, 2, 2])),
    Case(ShapeError, r"the matrix of an LU factorisation has the shape \(n, n\), got \(2, 3\)", lambda: LU.of(torch.ones(2, 3))),
    Case(
        SingularOperator,
        r"singular at torch.float32: its least singular value, 0, is no larger than its rounding, .*: Dense",
        lambda: LU.of(torch.ones(2, 2)),
    ),
    Case(DtypeError, r"a projection takes a mask, a tensor of shape \(\*batch, n\), got 0.5", lambda: Projection(0.5)),  # type: ignore[arg-type]
    Case(DomainError, r"the mask of a projection holds 1 non-finite", lambda: Projection(torch.tensor([torch.nan, 1.0]))),
    Case(
        SingularOperator,
        r"the operator is singular at torch.float32: a singular value is 0; pinv .*: Projection",
        lambda: inverse(Projection(torch.eye(2)[0])),
    ),
    Case(ShapeError, r"a direct sum has at least one core, got none", lambda: BlockDiagonal()),
    Case(
        ShapeError,
        r"the cores of a direct sum are operators without a batch, or tensors \(k, m, n\); got Dense\(shape=\(2, 3\)\)",
        lambda: BlockDiagonal(torch.ones(4, 5, 2, 3)),
    ),
    Case(ShapeError, r"operators without a batch, .* got Diagonal", lambda: BlockDiagonal(Diagonal(torch.ones(4, 2)))),
    Case(
        DtypeError,
        r"a core of a direct sum: got torch.float64 .* expected torch.float32",
        lambda: BlockDiagonal(torch.eye(2), torch.eye(2).double()),
    ),
    Case(
        ShapeError,
        r"the numbers a \+ i b have parts of one shape \(\*batch, k\), got \(5, 2\) and \(2,\)",
        lambda: RotationScaling(torch.ones(5, 2), torch.ones(2)),
    ),
    Case(
        ShapeError, r"parts of one shape \(\*batch, k\), got \(\)", lambda: RotationScaling(torch.tensor(1.0), torch.tensor(1.0))
    ),
    Case(
        ShapeError,
        r"the imaginary parts must have shape \(\*batch, 2\), got \(3,\)",
        lambda: RotationScaling(torch.ones(2), torch.ones(3)),
    ),
    Case(
        DtypeError,
        r"the imaginary parts: got torch.float64 .* expected torch.float32",
        lambda: RotationScaling(torch.ones(2), torch.ones(2).double()),
    ),
    Case(DtypeError, r"the real parts must be a torch.Tensor, got list", lambda: RotationScaling([1.0], [2.0])),  # type: ignore[arg-type]
    Case(
        DomainError,
        r"the index of a Selection holds numbers of 0..2, each at most once, got \[0, 3\]",
        lambda: Selection([0, 3], 3),
    ),
    Case(DomainError, r"0..2, each at most once, got \[1, 1\]", lambda: Selection([1, 1], 3)),
    Case(DomainError, r"0..2, each at most once, got \[-1\]", lambda: Selection([-1], 3)),
    Case(
        ShapeError,
        r"the symbol on a grid \(4,\) is complex, of shape \(\*batch, 3, C_out, C_in\), got \(4, 1, 1\) torch.float32",
        lambda: BlockCirculant(torch.ones(4, 1, 1), (4,)),
    ),
    Case(ShapeError, r"acts on signals \(C, L\) or images \(C, H, W\), got the shape \(3,\)", lambda: Convolution(ONES, (3,))),
    Case(DtypeError, r"the kernel must be a torch.Tensor, got list", lambda: Convolution([[[1.0]]], (1, 3))),  # type: ignore[arg-type]
    Case(
        ShapeError,
        r"on 4 channels in 2 group\(s\), the kernel has the shape \(\*batch, C_out, 4/2, k\) .* got \(1, 1, 3\)",
        lambda: Convolution(ONES, (4, 5), groups=2),
    ),
    Case(
        ShapeError,
        r"the kernel has the shape \(\*batch, C_out, 1/1, k, k\) .* got \(3, 3\)",
        lambda: Convolution(torch.ones(3, 3), (1, 5, 5)),
    ),
    Case(DomainError, r"by zeros, circular, reflect or replicate, .* got 'wrap' and", lambda: _signal(ONES, mode="wrap")),
    Case(DomainError, r"and not negative; got 'zeros' and \(\(-1, -1\),\)", lambda: _signal(ONES, padding=-1)),
    Case(
        DomainError,
        r"reflect padding is shorter than the side, got \(\(4, 4\),\) for sides \(4,\)",
        lambda: _signal(ONES, padding=4, mode="reflect"),
    ),
    Case(
        ShapeError,
        r"a kernel \(3,\) at stride 1 has no place in \(2,\) padded by \(\(0, 0\),\)",
        lambda: _signal(ONES, 2, padding=0),
    ),
    Case(ShapeError, r"a kernel \(3,\) at stride 0 has no place", lambda: _signal(ONES, stride=0)),
    Case(ShapeError, r"padding is 'same', a number, or 1 pairs .* got 'valid'", lambda: _signal(ONES, padding="valid")),
    Case(
        SingularOperator,
        r"the operator is singular at torch.float32",
        lambda: inverse(_signal(torch.tensor([[[1.0, -1.0]]]), mode="circular")),
    ),
    Case(DomainError, r"an operator is multiplied by a finite number, got nan: LU", lambda: LU(3) * float("nan")),
    Case(NotSquare, r"a chart needs a square operator, got shape \(2, 3\)", lambda: Linear(Dense(torch.ones(2, 3)))),
    Case(
        ShapeError,
        r"one operator on 2 coordinates acts on points of shape \(2, ...\), got the shape \(3, 2\) and the batch \(\)",
        lambda: Linear(Dense(torch.eye(2)), (3, 2)),
    ),
    Case(ShapeError, r"got the shape \(2,\) and the batch \(5,\)", lambda: Linear(Dense(torch.ones(5, 2, 2)))),
]
