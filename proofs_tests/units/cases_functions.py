"""Errors of the functions and spectra of operators."""

import torch

from induced.errors import DomainError, NotSquare, ShapeError, SingularOperator
from induced.operators import (
    Dense,
    Diagonal,
    LowRank,
    ScaledIdentityPlusLowRank,
    eigenvalues,
    function,
    log,
    polar,
    power,
    resolvent,
    sqrt,
)
from induced.operators.spectral import invariant_subspaces
from proofs_tests.units.case import Case

WIDE = Dense(torch.ones(2, 3))
SQUARE = Dense(torch.eye(2))
U = torch.eye(9, 1)
NILPOTENT = Dense(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
ROTATION = Dense(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
# ten pairs beside the cut, chained: how far from it is lost
PAIRS = torch.block_diag(*[torch.tensor([[-1.0, -1e-6], [1e-6, -1.0]]).double()] * 10) + torch.diag(torch.ones(18).double(), 2)
JORDAN = Dense(torch.tensor([[2.0, 1.0], [0.0, 2.0]]))

CASES = [
    Case(NotSquare, r"a power needs a square operator, got shape \(2, 3\)", lambda: power(WIDE, 0.5)),
    Case(DomainError, r"A \*\* p takes a finite real number p, got 'two'", lambda: power(SQUARE, "two")),  # type: ignore[arg-type]
    Case(DomainError, r"A \*\* p takes a finite real number p, got nan", lambda: power(SQUARE, float("nan"))),
    Case(NotSquare, r"the logarithm needs a square operator, got shape \(2, 3\)", lambda: log(WIDE)),
    Case(NotSquare, r"a function needs a square operator, got shape \(2, 3\)", lambda: function(WIDE, torch.sin)),
    Case(NotSquare, r"the resolvent needs a square operator, got shape \(2, 3\)", lambda: resolvent(WIDE, 1.0)),
    Case(NotSquare, r"the spectrum needs a square operator, got shape \(2, 3\)", lambda: eigenvalues(WIDE)),
    Case(SingularOperator, r"singular at torch.float32", lambda: resolvent(Diagonal(torch.tensor([1.0, 2.0])), 2.0)),
    Case(DomainError, r"the logarithm is not real, .*at the eigenvalue -2", lambda: log(Diagonal(torch.tensor([1.0, -2.0])))),
    Case(DomainError, r"the logarithm .*has no value, at the eigenvalue 0", lambda: log(LowRank(U, U))),
    Case(DomainError, r"the logarithm .*at the eigenvalue -1", lambda: log(ScaledIdentityPlusLowRank(-1.0, U, U))),
    Case(DomainError, r"log\(A\) is not real here: the operator has the eigenvalue -3 on", lambda: log(Dense(-3 * torch.eye(2)))),
    Case(
        DomainError,
        r"log\(A\) is not real here: the operator has the eigenvalue -1 on",
        lambda: log(ScaledIdentityPlusLowRank(1.0, -2 * U, U)),
    ),
    Case(DomainError, r"the logarithm has no value at the eigenvalue 0, .* it is singular", lambda: log(NILPOTENT)),
    Case(DomainError, r"A\^0.5 is not real, or does not exist, at the eigenvalue -1", lambda: sqrt(Diagonal(-torch.ones(1)))),
    Case(DomainError, r"A\^-0.5 is .* at the eigenvalue 0", lambda: power(LowRank(U, U), -0.5)),
    Case(DomainError, r"a power that is no integer is not real here: .* -2 on", lambda: sqrt(Dense(-2 * torch.eye(2)))),
    Case(
        DomainError, r"log\(A\) has no accurate real value here: .* eigenvalue -1.* defective .* cut", lambda: log(Dense(PAIRS))
    ),
    Case(DomainError, r"does not exist: .*singular, and its eigenvalue 0 .*nilpotent \(Jordan\)", lambda: sqrt(NILPOTENT)),
    Case(DomainError, r"phi\(A\) is not a real .* is not real.* at the eigenvalue -1", lambda: function(-SQUARE, torch.log)),
    Case(DomainError, r"phi\(A\) .* at the eigenvalue ", lambda: function(ROTATION, lambda z: 1j * z)),
    Case(DomainError, r"has no finite value at the eigenvalue 1", lambda: function(SQUARE, lambda z: 1 / (1 - z))),
    Case(DomainError, r"no accurate value: .* a disc round .* such as 2 ", lambda: function(JORDAN, lambda z: torch.sqrt(z - 2))),
    Case(
        ShapeError,
        r"the polar decomposition takes one operator, not a batch of them of shape \(3,\)",
        lambda: polar(ScaledIdentityPlusLowRank(torch.ones(3), U, U)),
    ),
    Case(
        ShapeError,
        r"the 9 eigenvectors of a \(9, 9\) operator exceed limit=8",
        lambda: invariant_subspaces(ScaledIdentityPlusLowRank(1.0, U, U), limit=8),
    ),
]
