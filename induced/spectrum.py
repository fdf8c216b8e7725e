"""The spectrum of an operator of one space."""

from typing import final

from torch import Tensor

from induced._module import ByValue
from induced.operators import LinearOperator
from induced.operators.spectral import invariant_subspaces
from induced.spaces import HilbertSpace
from induced.subspaces import Subspace


@final
class Spectrum(ByValue):
    """The eigenvalues of an operator of one space, and its real invariant subspaces.

    Attributes:
        values: all eigenvalues (n,), complex, by descending modulus.
    """

    def __init__(self, values: Tensor, core: LinearOperator, space: HilbertSpace) -> None:
        self.values, self._core, self._space = values, core, space

    def subspaces(self) -> list[tuple[Tensor, Subspace]]:
        """Pairs of eigenvalues and the least real subspace found that f maps into itself with them.

        A simple real eigenvalue has a line, a complex pair a plane, and eigenvalues too close to be told apart share theirs.

        Law:
            `W.contains(f(x))` for x in W; the dimensions add up to that of the space (laws/test_analysis.py)
        """
        found = invariant_subspaces(self._core)
        return [(part.eigenvalues, Subspace(self._space, part.basis)) for part in found]

    def __repr__(self) -> str:
        return f"Spectrum({len(self.values)} eigenvalues: {self._space!r})"
