"""The recipes of the library's own classes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import induced.bijections as b
import induced.bijections.networks as n
import induced.operators as o
import induced.propagators as p
from induced._numerics import widened
from induced.bijections.conditional import _Bound, _ChannelAffine, _Same
from induced.bijections.interpolating import PiecewiseLinear, Shear
from induced.bijections.reshape import Blocks
from induced.errors import CheckpointError
from induced.operators import base, triangular
from induced.propagators import magnus, steps
from induced.serialization.registry import BOUND, named, recipe, register
from induced.spaces import EuclideanSpace, InducedSpace, ProductSpace
from induced.subspaces import Subspace

_CHARTS: dict[type[nn.Module], tuple[str, ...]] = {
    **{cls: ("shape",) for cls in (b.ActNorm, b.Arctanh, b.Conv1x1, b.Flatten, b.Identity, b.Log, b.LogExpm1, b.Logit, b.Sinh)},
    b.AdditiveCoupling: ("shape", "conditioner", "flip"),
    b.Affine: ("shape", "scale", "shift"),
    b.AffineCoupling: ("shape", "conditioner", "flip", "max_log_scale"),
    Blocks: ("blocks", "axis", "stacked"),
    b.Inverse: ("bijection",),
    b.Linear: ("operator", "shape"),
    b.PixelShuffle: ("shape", "factor"),
    b.RandomSplit: ("shape",),
    b.RationalQuadraticCoupling: ("shape", "conditioner", "flip", "bins", "bound"),
    b.Reversible: ("chart",),
    b.Squeeze: ("shape", "factor"),
}
_OPERATORS: dict[type[nn.Module], tuple[str, ...]] = {
    base.Adjoint: ("operator",),
    o.Dense: ("A",),
    o.Diagonal: ("d",),
    o.Householder: ("V",),
    o.Inverse: ("operator",),
    o.LowRank: ("U", "V"),
    o.Projection: ("p",),
    o.RotationScaling: ("a", "b"),
    base.Scaled: ("a", "operator"),
    o.ScaledIdentityPlusLowRank: ("c", "U", "V"),
    o.SkewExponential: ("S",),
}
for _package, _classes in (("bijections", _CHARTS), ("operators", _OPERATORS)):
    for _cls, _attributes in _classes.items():
        register(_cls, *_attributes, name=f"{_package}.{_cls.__name__}")

register(triangular.Solve, "operator", name="operators.LUInverse")
register(InducedSpace, "chart", name="InducedSpace")
register(EuclideanSpace, "shape", name="EuclideanSpace")

register(
    Subspace,
    describe=lambda W: {"space": W.space, "Q": W.frame, "accuracy": W.accuracy},
    name="Subspace",
)

register(nn.ReLU, name="torch.ReLU")
register(nn.SiLU, name="torch.SiLU")
register(nn.Tanh, name="torch.Tanh")
register(
    nn.Linear,
    describe=lambda m: {"in_features": m.in_features, "out_features": m.out_features, "bias": m.bias is not None},
    name="torch.Linear",
)


def _sequence(cls: type[nn.Module], attribute: str, name: str) -> None:
    """A class built from modules that are its arguments, one after the other."""

    def describe(module: nn.Module) -> Mapping[str, Any]:
        return {attribute: list(module._modules.values() if attribute == "layers" else getattr(module, attribute))}

    register(cls, describe=describe, build=lambda **given: cls(*given[attribute]), name=name)


_sequence(b.Composition, "parts", "bijections.Composition")
_sequence(b.ConditionalComposition, "parts", "bijections.ConditionalComposition")
_sequence(b.DirectSum, "charts", "bijections.DirectSum")
_sequence(b.ConditionalDirectSum, "charts", "bijections.ConditionalDirectSum")
_sequence(ProductSpace, "factors", "ProductSpace")
_sequence(nn.Sequential, "layers", "torch.Sequential")
_sequence(base.Sum, "operators", "operators.Sum")
_sequence(base.Product, "operators", "operators.Product")
_sequence(o.BlockDiagonal, "cores", "operators.BlockDiagonal")

# ------------------------------------------------------------------------------------------------------------ bijections
register(b.Simplex, describe=lambda g: {"parts": g.shape[0]}, name="bijections.Simplex")
register(b.PositiveDefinite, describe=lambda g: {"n": g.shape[0]}, name="bijections.PositiveDefinite")
register(
    b.LatticeCoupling,
    describe=lambda g: {"shape": g.shape, "conditioner": g.conditioner.conditioner, "flip": g.flip, "bits": g.bits},
    name="bijections.LatticeCoupling",
)
register(
    n.MLP,
    describe=lambda m: {
        "inputs": m.inputs,
        "outputs": m.last.out_features,
        "width": m.first.out_features,
        "context": 0 if m.modulation.affine is None else m.modulation.affine.in_features,
    },
    name="networks.MLP",
)
register(
    n.ConvNet,
    describe=lambda m: {
        "inputs": m.first.in_channels,
        "outputs": m.last.out_channels,
        "width": m.first.out_channels,
        "context": 0 if m.modulation.affine is None else m.modulation.affine.in_features,
        "window": m.norm.window,
    },
    name="networks.ConvNet",
)
register(n.UNet, "shape", "outputs", "width", "context", "depth", "norm", name="networks.UNet")


def _describe_coupling(g: b.ConditionalCoupling) -> Mapping[str, Any]:
    kind, keywords = (g.kind.func, g.kind.keywords) if isinstance(g.kind, partial) else (g.kind, {})
    if not isinstance(kind, type) or (isinstance(g.kind, partial) and g.kind.args):
        raise CheckpointError(
            f"a ConditionalCoupling with kind={g.kind!r} cannot be saved: its kind is a class of couplings, or a partial of one "
            f"with keywords"
        )
    # a sample of the kind, made only to learn the name of its class
    name = recipe(kind(g.shape, nn.Identity(), flip=g.flip, **keywords)).name
    return {"shape": g.shape, "conditioner": g.conditioner, "flip": g.flip, "kind": name, "names": list(keywords)} | {
        f"keyword_{key}": value for key, value in keywords.items()
    }


def _build_coupling(
    shape: list[int], conditioner: nn.Module, flip: bool, kind: str, names: list[str], **given: Any
) -> b.ConditionalCoupling:
    made: Callable[..., Any] = named(kind, "the kind of a ConditionalCoupling").build
    keywords = {key: given[f"keyword_{key}"] for key in names}
    return b.ConditionalCoupling(shape, conditioner, flip=flip, kind=partial(made, **keywords) if keywords else made)


register(b.ConditionalCoupling, describe=_describe_coupling, build=_build_coupling, name="bijections.ConditionalCoupling")
register(
    b.ConditionalActNorm, describe=lambda g: {"shape": g.shape, "context": len(g.first)}, name="bijections.ConditionalActNorm"
)
# the charts of interpolate; the mean and the radii of a shear come back with its tensors
register(Shear, "C", "B", "centers", "values", name="bijections.Shear")
register(PiecewiseLinear, "x", "z", name="bijections.PiecewiseLinear")
# the parts of a chart at a context, once a composition has taken it apart
register(_Bound, "conditioner", "context", name="bijections.Bound")
register(_ChannelAffine, "parent", "context", name="bijections.ChannelAffine")


def _describe_bound(chart: b.Bijection) -> Mapping[str, Any]:
    parent, context = chart.identity()
    return {"parent": parent, "context": context.tensor if isinstance(context, _Same) else context}


def _build_bound(parent: b.ConditionalBijection, context: float | Tensor) -> b.Bijection:
    chart, like = parent.at(context), next(parent.parameters(), None)
    for module in chart.modules() if like is not None else ():
        if isinstance(module, _Bound | _ChannelAffine):  # as if parent and context had been moved together
            module.context = module.context.to(like)
    return chart


register(b.Bijection, describe=_describe_bound, build=_build_bound, name=BOUND)  # type: ignore[type-abstract]

# ------------------------------------------------------------------------------------------------------------- operators
register(o.LU, describe=lambda A: {"n": A.shape[0]}, name="operators.LU")
register(o.Orthogonal, describe=lambda A: {"Q": A.Q}, build=partial(o.Orthogonal, check=False), name="operators.Orthogonal")
register(
    o.Selection,
    describe=lambda A: {"index": A.index, "dim": A.shape[1], "dtype": str(A.reference().dtype).removeprefix("torch.")},
    build=lambda index, dim, dtype: o.Selection(index, dim, getattr(torch, dtype)),
    name="operators.Selection",
)
register(
    o.Permutation,
    describe=lambda A: {"order": A.order, "dtype": str(A.reference().dtype).removeprefix("torch.")},
    build=lambda order, dtype: o.Permutation(order, getattr(torch, dtype)),
    name="operators.Permutation",
)
register(
    o.Convolution,
    describe=lambda A: {
        "kernel": A.kernel,
        "shape": A.in_shape,
        "padding": A.pads,
        "mode": A.mode,
        "stride": A.stride,
        "groups": A.groups,
    },
    name="operators.Convolution",
)
register(
    o.BlockCirculant,
    describe=lambda A: {"blocks": A.blocks, "size": A.size},
    build=lambda blocks, size: o.BlockCirculant(torch.view_as_complex(widened(blocks).contiguous()), size, blocks.dtype),
    name="operators.BlockCirculant",
)
for _family in (p.LowRankFamily, p.SharedBasisFamily):
    register(
        _family,
        describe=lambda F: {
            "dim": F.dim,
            "rank": F.rank,
            "width": F.hidden[0].out_features,
            "features": F.hidden[2].out_features,
            "floor": F.floor,
        },
        name=f"propagators.{_family.__name__}",
    )
register(magnus.Exponent, "A1", "A2", "h", name="propagators.Exponent")


def _build_stepwise(family: p.OperatorFamily, grid: list[list[float]], method: str) -> p.Stepwise:
    made = p.Stepwise(family, steps=1, method=method)
    made.grid = [steps.Interval(*step) for step in grid]
    return made


register(
    p.Stepwise,
    describe=lambda A: {"family": A.family, "grid": A.grid, "method": A.method},
    build=_build_stepwise,
    name="propagators.Stepwise",
)
