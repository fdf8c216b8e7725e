"""Charts: bijections onto R^n that make a set a vector space."""

from induced.bijections.base import Bijection, Composition, Identity, Inverse
from induced.bijections.certificate import rounding
from induced.bijections.conditional import ConditionalActNorm, ConditionalBijection, ConditionalComposition, ConditionalCoupling
from induced.bijections.conditioners import MLP, ConvNet
from induced.bijections.coupling import AdditiveCoupling, AffineCoupling, Coupling
from induced.bijections.elementwise import Affine, Arctanh, Elementwise, Log, Logit, Sinh
from induced.bijections.linear import Conv1x1
from induced.bijections.normalize import ActNorm
from induced.bijections.ready import glow, real_nvp
from induced.bijections.reshape import Flatten, Squeeze

__all__ = [
    "MLP",
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "Arctanh",
    "Bijection",
    "Composition",
    "ConditionalActNorm",
    "ConditionalBijection",
    "ConditionalComposition",
    "ConditionalCoupling",
    "Conv1x1",
    "ConvNet",
    "Coupling",
    "Elementwise",
    "Flatten",
    "Identity",
    "Inverse",
    "Log",
    "Logit",
    "Sinh",
    "Squeeze",
    "glow",
    "real_nvp",
    "rounding",
]
