"""Charts from the flows of zuko, FrEIA, normflows and nflows."""

from collections.abc import Iterator, Sequence
from typing import Any, final, overload

import numpy as np
from torch import Tensor, nn

from induced.bijections.adapters.base import is_from, require_from
from induced.bijections.adapters.layer import Context, Layer, chain, conditions, depends_on_context
from induced.bijections.adapters.transforms import require_onto
from induced.bijections.base import Bijection
from induced.bijections.conditional import ConditionalBijection
from induced.errors import NotInvertible


@final
class _Zuko(Layer):
    def _encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        z: Tensor = self.module(context)(x)
        return z

    def _decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x: Tensor = self.module(context).inv(z)
        return x

    def _encode_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        z, log_det = self.module(context).call_and_ladj(x)
        return z, log_det

    def _decode_with_log_det(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        x, log_det = self.module(context).inv.call_and_ladj(z)
        return x, log_det


@overload
def from_zuko(flow: Any, shape: Sequence[int], context: Tensor | None = None) -> Bijection: ...
@overload
def from_zuko(flow: Any, shape: Sequence[int], context: int) -> ConditionalBijection: ...


def from_zuko(flow: Any, shape: Sequence[int], context: Context = None) -> Bijection | ConditionalBijection:
    """The chart of a zuko `Flow` or `LazyTransform`, from data to noise, unconditional or with its context bound.

    NAF, UNAF, GF and BPF are inverted by bisection to 1e-6 and CNF by an ODE solver to 1e-4, not to rounding. Their maps and
    gradients work, but zuko computes them in a way that torch.func refuses: they have no amplification, and the laws raise.

    Arguments:
        flow: the flow.
        shape: shape of a point.
        context: of a conditional flow the length k of a context, for a ConditionalBijection; or the vector (k,) to bind, for that
            one chart: an `nn.Parameter` trains.

    Raises:
        DtypeError: not an object of zuko.
        DomainError: a layer says that it is not onto R^n, as a soft clip. One on a circle does not say so: see the laws.
        NotInvertible: it does not take points of this shape, there or back, or depends on a context and none is given.
    """
    require_from(flow, "a zuko Flow or LazyTransform", "zuko", "Flow", "LazyTransform")
    lazy = list(_lazy_parts(flow.transform if is_from(flow, "zuko", "Flow") else flow))
    chart = chain(_Zuko, [(part, context is not None) for part in lazy], shape, context, flow)
    layers = (layer for layer in chart.modules() if isinstance(layer, _Zuko))
    require_onto([layer.module(layer.context) for layer in layers], type(flow).__name__)
    return chart


def _lazy_parts(lazy: Any) -> Iterator[nn.Module]:
    if is_from(lazy, "zuko", "LazyComposedTransform"):
        for part in lazy.transforms:
            yield from _lazy_parts(part)
    else:
        yield lazy


@final
class _Freia(Layer):
    def _run(self, x: Tensor, context: Tensor | None, *, back: bool = False, jac: bool = True) -> tuple[Tensor, object]:
        given = {} if context is None else {"c": [context.reshape(len(x), *conditions(self.module)[0])]}
        # some modules of FrEIA scale what they are given in place
        out, log_det = self.module([x.clone()], rev=back, jac=jac, **given)
        return out if isinstance(out, Tensor) else out[0], log_det

    def _encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._run(x, context, jac=False)[0]

    def _decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self._run(z, context, back=True, jac=False)[0]

    def _encode_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        return self._run(x, context)

    def _decode_with_log_det(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        return self._run(z, context, back=True)


@overload
def from_freia(module: Any, shape: Sequence[int] | None = None, context: Tensor | None = None) -> Bijection: ...
@overload
def from_freia(module: Any, shape: Sequence[int] | None = None, *, context: int) -> ConditionalBijection: ...


def from_freia(module: Any, shape: Sequence[int] | None = None, context: Context = None) -> Bijection | ConditionalBijection:
    """The chart of a FrEIA `InvertibleModule`, `SequenceINN` or `GraphINN` with one input, one output and at most one condition.

    Arguments:
        module: the module, in its forward direction.
        shape: shape of a point, by default the one that the module was made for.
        context: as for `from_zuko`; the entries of the condition, in order.

    Raises:
        DtypeError: not an object of FrEIA.
        NotInvertible: it has several inputs or conditions, does not take points of this shape there and back, or depends on a
            context and none is given.
    """
    require_from(module, "a FrEIA InvertibleModule", "FrEIA", "InvertibleModule")
    if shape is None:
        dims: Any = module.dims_in
        shape = tuple(dims) if isinstance(dims[0], int | np.integer) else tuple(dims[0])
    parts = list(module.module_list) if is_from(module, "FrEIA", "SequenceINN") else [module]
    counts = [len(conditions(part)) for part in parts]
    if max(counts, default=0) > 1 or len(set(getattr(module, "conditions", ())) - {None}) > 1:
        raise NotInvertible(f"{type(module).__name__} has more than one condition; a chart has one context, so join them")
    return chain(_Freia, [(part, count == 1) for part, count in zip(parts, counts, strict=True)], shape, context, module)


class _Pair(Layer):
    """A layer whose two maps each return their log-determinant too, and take a context if there is one."""

    def _encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        z: Tensor = self._there(x, context)[0]
        return z

    def _decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x: Tensor = self._back(z, context)[0]
        return x

    def _encode_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        z, log_det = self._there(x, context)
        return z, log_det

    def _decode_with_log_det(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, object]:
        x, log_det = self._back(z, context)
        return x, log_det

    def _there(self, x: Tensor, context: Tensor | None) -> Any:
        return self.module(x) if context is None else self.module(x, context=context)

    def _back(self, z: Tensor, context: Tensor | None) -> Any:
        return self.module.inverse(z) if context is None else self.module.inverse(z, context=context)


@final
class _Normflows(_Pair):
    """A layer of normflows, which maps noise to data."""

    def _there(self, x: Tensor, context: Tensor | None) -> Any:
        return super()._back(x, context)

    def _back(self, z: Tensor, context: Tensor | None) -> Any:
        return super()._there(z, context)


@final
class _Nflows(_Pair):
    """A layer of nflows, which maps data to noise."""


@overload
def from_normflows(flow: Any, shape: Sequence[int], context: Tensor | None = None) -> Bijection: ...
@overload
def from_normflows(flow: Any, shape: Sequence[int], context: int) -> ConditionalBijection: ...


def from_normflows(flow: Any, shape: Sequence[int], context: Context = None) -> Bijection | ConditionalBijection:
    """The chart of a normflows `NormalizingFlow` or one of its layers, from data to noise: `flow.inverse`.

    Arguments:
        flow: the flow. Of a `ConditionalNormalizingFlow` every layer takes the context, else those with a context layer.
        shape: shape of a point.
        context: as for `from_zuko`.

    Raises:
        DtypeError: not an object of normflows.
        NotInvertible: a layer does not map points of this shape there and back (Planar, BatchNorm, multiscale splits), or depends
            on a context and none is given.
    """
    require_from(flow, "a normflows NormalizingFlow or Flow", "normflows", "NormalizingFlow", "Flow")
    parts = reversed(flow.flows) if is_from(flow, "normflows", "NormalizingFlow") else [flow]
    every = is_from(flow, "normflows", "ConditionalNormalizingFlow")
    return chain(_Normflows, [(part, every or depends_on_context(part)) for part in parts], shape, context, flow)


@overload
def from_nflows(flow: Any, shape: Sequence[int], context: Tensor | None = None) -> Bijection: ...
@overload
def from_nflows(flow: Any, shape: Sequence[int], context: int) -> ConditionalBijection: ...


def from_nflows(flow: Any, shape: Sequence[int], context: Context = None) -> Bijection | ConditionalBijection:
    """The chart of an nflows `Flow` or `Transform`, from data to noise.

    Arguments:
        flow: the flow; its `embedding_net` is applied to a context when that is bound, and trains through `.at(c)`.
        shape: shape of a point.
        context: as for `from_zuko`.

    Raises:
        DtypeError: not an object of nflows.
        NotInvertible: it does not map points of this shape, or coordinates around 0, there and back (Sigmoid or Tanh, whose
            image is bounded), or depends on a context and none is given.
    """
    require_from(flow, "an nflows Flow or Transform", "nflows", "Flow", "Transform")
    whole = is_from(flow, "nflows", "Flow")
    parts = _transforms(flow._transform if whole else flow)
    embedding = flow._embedding_net if whole else None
    return chain(_Nflows, [(part, context is not None) for part in parts], shape, context, flow, embedding)


def _transforms(transform: Any) -> Iterator[nn.Module]:
    if is_from(transform, "nflows", "CompositeTransform"):
        for part in transform._transforms:
            yield from _transforms(part)
    else:
        yield transform
