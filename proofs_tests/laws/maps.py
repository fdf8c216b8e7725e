"""Maps between induced spaces."""

import torch
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections import real_nvp
from proofs_tests.registry import CoreCase, shaken

SMALL = 0.3


def flow(dim: int, dtype: torch.dtype = torch.float64) -> InducedSpace:
    """A space whose chart is a network."""
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).to(dtype))


def endomorphism(core: CoreCase) -> tuple[Linearizer, Tensor]:
    """A map of one space with this core, of norm about 1, and samples."""
    A = core.make(core.matrix()).requires_grad_(False)
    X = flow(A.shape[0])
    with torch.no_grad():
        return Linearizer(A / float(A.matrix().norm().clamp(min=1)), X), X.sample(4)
