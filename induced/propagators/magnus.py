"""Magnus-4: exp(h/2 (A1 + A2) + sqrt(3) h^2/12 [A2, A1]), A1 and A2 at the Gauss nodes (docs/theory/flow_matching.md)."""

import math
from typing import final

import torch
from torch import Tensor

from induced._validate import eager
from induced.operators.base import LinearOperator, Scalar
from induced.operators.dense import per_matrix
from induced.operators.exponential import exp_multiply
from induced.operators.lowrank import Parts, ScaledIdentityPlusLowRank, divided_difference
from induced.propagators.steps import Method, Step, parts_of


@final
class Exponent(LinearOperator):
    """Omega = h/2 (A1 + A2) + k (A2 A1 - A1 A2), applied by two products with each; k = sqrt(3) h^2 / 12."""

    def __init__(self, A1: LinearOperator, A2: LinearOperator, h: Scalar) -> None:
        super().__init__(A1.shape)
        self.A1, self.A2 = A1, A2
        self.h, self.k = h, math.sqrt(3) * h**2 / 12

    def forward(self, z: Tensor) -> Tensor:
        one, two = self.A1(z), self.A2(z)
        return self.A2(self.h / 2 * z + self.k * one) + self.A1(self.h / 2 * z - self.k * two)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        one, two = self.A1.apply_adjoint(w), self.A2.apply_adjoint(w)
        return self.A1.apply_adjoint(self.h / 2 * w + self.k * two) + self.A2.apply_adjoint(self.h / 2 * w - self.k * one)

    def matrix(self, limit: int = 4096) -> Tensor:
        A1, A2 = self.A1.matrix(limit), self.A2.matrix(limit)
        return self.h / 2 * (A1 + A2) + self.k * (A2 @ A1 - A1 @ A2)


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
            M: Tensor = torch.linalg.matrix_exp(omega.matrix(n))
            return z @ M if adjoint else z @ M.mT
        return exp_multiply(omega.H if adjoint else omega, z)[0]

    def parts(self, dtype: torch.dtype) -> Parts | None:
        """Omega = c I + [U1 U2] W^T, its commutator U2 (V2^T U1) V1^T - U1 (V1^T U2) V2^T; S - s I has rank 2r."""
        parts = parts_of([self.A1, self.A2], dtype)
        if parts is None:
            return None
        (c1, U1, V1), (c2, U2, V2) = parts[id(self.A1)], parts[id(self.A2)]
        h, k = per_matrix(self.h), per_matrix(math.sqrt(3) * self.h**2 / 12)
        W1 = h / 2 * V1 - k * (V2 @ (U2.mT @ V1))
        W2 = h / 2 * V2 + k * (V1 @ (U1.mT @ V2))
        c, basis, W = self.h / 2 * (c1 + c2), torch.cat([U1, U2], -1), torch.cat([W1, W2], -1)
        return torch.exp(c), basis @ divided_difference(c, W.mT @ basis, torch.linalg.matrix_exp), W


MAGNUS4 = Method((0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6), Magnus, 4)
