"""Charts: bijections onto R^n that make a set a vector space."""

from induced.bijections.adapters import (
    from_callables,
    from_freia,
    from_nflows,
    from_normflows,
    from_transform,
    from_zuko,
)
from induced.bijections.amplification import rounding, roundtrip
from induced.bijections.base import Bijection, Composition, Identity
from induced.bijections.conditional import ConditionalBijection, ConditionalComposition
from induced.bijections.constrained import PositiveDefinite, Simplex
from induced.bijections.coupling import AdditiveCoupling, AffineCoupling
from induced.bijections.direct_sum import ConditionalDirectSum, DirectSum
from induced.bijections.elementwise import Affine, Arctanh, InverseSoftplus, Log, Logit, Sinh
from induced.bijections.lattice import LatticeCoupling
from induced.bijections.linear import Conv1x1, Linear
from induced.bijections.normalize import ActNorm
from induced.bijections.ready import glow, real_nvp
from induced.bijections.reshape import Flatten, PixelShuffle, RandomSplit, Squeeze
from induced.bijections.reversible import Reversible
from induced.bijections.spline import RationalQuadraticCoupling

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "Arctanh",
    "Bijection",
    "Composition",
    "ConditionalBijection",
    "ConditionalComposition",
    "ConditionalDirectSum",
    "Conv1x1",
    "DirectSum",
    "Flatten",
    "Identity",
    "InverseSoftplus",
    "LatticeCoupling",
    "Linear",
    "Log",
    "Logit",
    "PixelShuffle",
    "PositiveDefinite",
    "RandomSplit",
    "RationalQuadraticCoupling",
    "Reversible",
    "Simplex",
    "Sinh",
    "Squeeze",
    "from_callables",
    "from_freia",
    "from_nflows",
    "from_normflows",
    "from_transform",
    "from_zuko",
    "glow",
    "real_nvp",
    "rounding",
    "roundtrip",
]
