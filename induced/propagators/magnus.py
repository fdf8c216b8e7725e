"""Magnus-4: exp(h/2 (A1 + A2) + sqrt(3) h^2/12 [A2, A1]), A1 and A2 at the Gauss nodes (docs/theory/flow_matching.md)."""

import math
from typing import final

import torch
from torch import Tensor

from induced._registry import saved_as
from induced._validate import eager, require_finite
from induced.operators.base import LinearOperator
from induced.operators.exponential import exp_multiply
from induced.operators.factors import tracked
from induced.operators.lowrank import ScaledIdentityPlusLowRank
from induced.operators.matrices import divided_difference, expm
from induced.operators.reduction import Triplets as Parts
from induced.operators.rules import Scalar, per_matrix
from induced.propagators.steps import Method, Step, parts_of

_K = math.sqrt(3) / 12
_EXPONENT = "the exponent of a Magnus step", "A_t is not finite there, or too large: take shorter steps"

_HARMLESS = 10.0
"""Norm of W^T [U1 U2] up to which the factors may hold Omega: the error is then up to 9 eps, past 600 it is 600 eps."""


@final
@saved_as("propagators.Exponent", "A1", "A2", "h")
class Exponent(LinearOperator):
    """Omega = (h A1 + h A2) / 2 + k (h A2 h A1 - h A1 h A2), applied by two products with each; k = sqrt(3) / 12."""

    def __init__(self, A1: LinearOperator, A2: LinearOperator, h: Scalar) -> None:
        super().__init__(A1.shape)
        self.A1, self.A2, self.h = A1, A2, h

    def forward(self, z: Tensor) -> Tensor:
        one, two = self.h * self.A1(z), self.h * self.A2(z)
        return self.h * (self.A2(z / 2 + _K * one) + self.A1(z / 2 - _K * two))

    def apply_adjoint(self, w: Tensor) -> Tensor:
        one, two = self.h * self.A1.apply_adjoint(w), self.h * self.A2.apply_adjoint(w)
        return self.h * (self.A1.apply_adjoint(w / 2 + _K * two) + self.A2.apply_adjoint(w / 2 - _K * one))

    def matrix(self, limit: int = 4096) -> Tensor:
        return _omega(self.h * self.A1.matrix(limit), self.h * self.A2.matrix(limit))


@final
class Magnus(Step):
    """S = exp(Omega): in closed form for c I + U V^T, by its matrix for n/4 states or more, by its products for fewer."""

    def __init__(self, operators: list[LinearOperator], h: Scalar) -> None:
        self.A1, self.A2 = operators
        self.h = h

    def apply(self, z: Tensor) -> Tensor:
        return self._apply(z, adjoint=False)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._apply(w, adjoint=True)

    def _apply(self, z: Tensor, *, adjoint: bool) -> Tensor:
        parts = self.parts(z.dtype)
        if parts is not None:
            S: LinearOperator = ScaledIdentityPlusLowRank(*parts)
            return S.apply_adjoint(z) if adjoint else S(z)
        omega, n = Exponent(self.A1, self.A2, self.h), z.shape[-1]
        if 4 * z.numel() >= n * n or not eager(z):
            M = _exp(omega.matrix(n).double()).to(z.dtype)
            return z @ M if adjoint else z @ M.mT
        return exp_multiply(omega.H if adjoint else omega, z)[0]

    def parts(self, dtype: torch.dtype) -> Parts | None:
        """Omega = c I + [U1 U2] W^T, its commutator U2 (V2^T U1) V1^T - U1 (V1^T U2) V2^T; S - s I has rank 2r.

        Past a norm of W^T [U1 U2] that is harmless, Omega is formed on an orthonormal basis Q of span[U1 U2 V1 V2] instead, in
        whose first 2r columns U1 and U2 lie: S = s I + Q (exp(c I + K) - s I) Q^T. A basis has no derivative where columns
        depend on one another: where gradients are asked for, and where it has n columns, the unit vectors are Q.
        """
        parts = parts_of([self.A1, self.A2], torch.promote_types(dtype, torch.float32))
        if parts is None:
            return None
        (c1, U1, V1), (c2, U2, V2) = parts[id(self.A1)], parts[id(self.A2)]
        h = per_matrix(self.h)
        c, V1, V2 = self.h / 2 * (c1 + c2), h * V1, h * V2
        batch = torch.broadcast_shapes(*(part.shape[:-2] for part in (U1, U2, V1, V2)))  # type: ignore[no-untyped-call]
        U1, U2, V1, V2 = (part.expand(*batch, *part.shape[-2:]) for part in (U1, U2, V1, V2))
        basis, n = torch.cat([U1, U2], -1), U1.shape[-2]
        if 2 * basis.shape[-1] < n:
            W = torch.cat([V1 / 2 - _K * (V2 @ (U2.mT @ V1)), V2 / 2 + _K * (V1 @ (U1.mT @ V2))], -1)
            M = W.mT @ basis
            if not eager(M) or bool((M.abs().sum(-1) <= _HARMLESS).all()):
                X = basis @ divided_difference(c.double(), M.double(), expm).to(basis)
                return torch.exp(c).to(dtype), X.to(dtype), W.to(dtype)
            require_finite(M, *_EXPONENT)  # a QR may hide a nan
        c, basis, U1, V1, U2, V2 = (part.double() for part in (c, basis, U1, V1, U2, V2))
        Q, m = torch.eye(n, dtype=c.dtype, device=c.device).expand(*batch, n, n), n
        if 2 * basis.shape[-1] < n and not tracked(basis, V1, V2):
            Q, R = torch.linalg.qr(torch.cat([basis, V1, V2], -1))
            m = basis.shape[-1]
            U1, U2, V1, V2 = R.split([part.shape[-1] for part in (U1, U2, V1, V2)], -1)
        eye, s = torch.eye(Q.shape[-1], dtype=c.dtype, device=c.device), torch.exp(c)
        E = _exp(per_matrix(c) * eye + _omega(U1 @ V1.mT, U2 @ V2.mT)) - per_matrix(s) * eye
        return s.to(dtype), Q[..., :m].to(dtype), (Q @ E[..., :m, :].mT).to(dtype)


def _omega(A1: Tensor, A2: Tensor) -> Tensor:
    """Omega of the matrices h A1 and h A2."""
    return (A1 + A2) / 2 + _K * (A2 @ A1 - A1 @ A2)


def _exp(omega: Tensor) -> Tensor:
    require_finite(omega, *_EXPONENT)
    return expm(omega)


MAGNUS4 = Method((0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6), Magnus, 4)
