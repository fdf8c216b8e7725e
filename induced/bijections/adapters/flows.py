"""Charts from the flows of zuko, FrEIA, normflows and nflows."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._validate import require_shape
from induced.bijections.adapters.base import AdaptedWithDeterminant, composed, is_from, require_from, require_one_function
from induced.bijections.adapters.transforms import require_onto
from induced.bijections.base import Bijection
from induced.errors import InducedError, NotInvertible, ShapeError
from induced.operators.algebra import register


class _Flow(AdaptedWithDeterminant):
    """One layer of a foreign flow; tried once on points of zeros, which gives the shape of its coordinates."""

    module: Any

    def __init__(self, module: nn.Module, shape: Sequence[int], context: Tensor | None = None) -> None:
        super().__init__(shape)
        self.module = module
        self.context: Tensor | None = None
        if context is not None:
            del self.context
            register(self, "context", context)
        require_one_function(self)
        self.train(self.training)
        self._waits = bool(self._waiting())
        self.coord_shape = self._tried()

    def _tried(self) -> tuple[int, ...]:
        trial, like = copy.deepcopy(self) if self._waits else self, self.reference()
        x = torch.zeros(2, *self.shape) if like is None else like.new_zeros(2, *self.shape)
        try:
            with torch.no_grad():
                z = trial._encode(x)
                require_shape(trial._decode(z), x.shape, "what the flow gives back")
        except Exception as error:
            raise NotInvertible(
                f"{type(self.module).__name__} does not map points of shape {self.shape} there and back "
                f"({type(error).__name__}: {error}); the shape may be wrong, a context missing, or the layer without inverse"
            ) from error
        try:
            with torch.no_grad():
                torch.func.jvp(trial._decode, (z,), (z,))
            self._opaque = False
        except RuntimeError:
            self._opaque = True
        return tuple(z.shape[1:])

    def _waiting(self) -> list[nn.Module]:
        """The layers that set themselves from the first batch they see: ActNorm."""
        return [module for module in self.modules() if _waits_for_data(module)]

    def _require_ready(self, x: Tensor) -> None:
        if self._waits:
            self._waits = bool(self._waiting())
        if self._waits:
            raise InducedError(
                f"{type(self.module).__name__} sets itself from the first batch it sees: call chart.initialize(batch) once with "
                f"a batch of data, or load a trained state"
            )
        if self._opaque and not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise InducedError(
                f"{type(self.module).__name__} computes in a way that torch.func does not take, so that it has no certificate of "
                f"rounding and no law can be judged; its maps and gradients work"
            )

    def forward(self, x: Tensor) -> Tensor:
        self._require_ready(x)
        return super().forward(x)

    def inverse(self, z: Tensor) -> Tensor:
        self._require_ready(z)
        return super().inverse(z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._require_ready(x)
        return super().forward_and_log_abs_det(x)

    def initialize(self, batch: Tensor) -> None:
        waiting = self._waiting()
        if not waiting:
            return
        rows = batch.reshape(-1, *self.shape)
        if len(rows) < 2:
            raise ShapeError(f"a layer that sets itself from data needs at least two points, got a batch {tuple(batch.shape)}")
        for module in waiting:
            module.training = True
        with torch.no_grad():
            self._encode(rows)
        self.train(self.training)

    def extra_repr(self) -> str:
        return f"{type(self.module).__name__}, {super().extra_repr()}"


def _waits_for_data(module: nn.Module) -> bool:
    if is_from(module, "FrEIA"):
        return bool(getattr(module, "init_on_next_batch", False))
    if is_from(module, "normflows"):
        return not getattr(module, "data_dep_init_done", True)
    return is_from(module, "nflows", "ActNorm") and not module.initialized


def _chain(kind: type[_Flow], modules: Iterable[nn.Module], shape: Sequence[int], context: Tensor | None = None) -> Bijection:
    charts: list[Bijection] = []
    for module in modules:
        charts.append(kind(module, charts[-1].coord_shape if charts else shape, context))
    return composed(charts)


@final
class _Zuko(_Flow):
    def _made(self) -> Any:
        return self.module(self.context)

    def _encode(self, x: Tensor) -> Tensor:
        z: Tensor = self._made()(x)
        return z

    def _decode(self, z: Tensor) -> Tensor:
        x: Tensor = self._made().inv(z)
        return x

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        z, log_det = self._made().call_and_ladj(x)
        return z, log_det


def from_zuko(flow: Any, shape: Sequence[int], context: Tensor | None = None) -> Bijection:
    """The chart of a zuko `Flow` or `LazyTransform`, from data to noise, unconditional or with its context bound.

    NAF, UNAF, GF and BPF are inverted by bisection to 1e-6 and CNF by an ODE solver to 1e-4, not to rounding. Their maps and
    gradients work, but zuko computes them in a way that torch.func refuses: they have no certificate, and the laws raise.

    Arguments:
        flow: the flow.
        shape: shape of a point.
        context: the vector (k,) to bind; an `nn.Parameter` trains.

    Raises:
        DtypeError: not an object of zuko.
        DomainError: a layer says that it is not onto R^n, as a soft clip. One on a circle does not say so: see the laws.
        NotInvertible: it does not take points of this shape, there or back.
    """
    require_from(flow, "a zuko Flow or LazyTransform", "zuko", "Flow", "LazyTransform")
    lazy = list(_lazy_parts(flow.transform if is_from(flow, "zuko", "Flow") else flow))
    chart = _chain(_Zuko, lazy, shape, context)
    made = [part._made() for part in chart.layers() if isinstance(part, _Zuko)]
    require_onto(made, type(flow).__name__)
    return chart


def _lazy_parts(lazy: Any) -> Iterator[nn.Module]:
    if is_from(lazy, "zuko", "LazyComposedTransform"):
        for part in lazy.transforms:
            yield from _lazy_parts(part)
    else:
        yield lazy


@final
class _Freia(_Flow):
    def _run(self, x: Tensor, *, back: bool = False, jac: bool = False) -> tuple[Tensor, object]:
        # some modules of FrEIA scale what they are given in place
        out, log_det = self.module([x.clone()], rev=back, jac=jac)
        return out if isinstance(out, Tensor) else out[0], log_det

    def _encode(self, x: Tensor) -> Tensor:
        return self._run(x)[0]

    def _decode(self, z: Tensor) -> Tensor:
        return self._run(z, back=True)[0]

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        return self._run(x, jac=True)


def from_freia(module: Any, shape: Sequence[int] | None = None) -> Bijection:
    """The chart of a FrEIA `InvertibleModule`, `SequenceINN` or `GraphINN` with one input, one output and no condition.

    Arguments:
        module: the module, in its forward direction.
        shape: shape of a point, by default the one that the module was made for.

    Raises:
        DtypeError: not an object of FrEIA.
        NotInvertible: it has several inputs, or does not take points of this shape there and back.
    """
    require_from(module, "a FrEIA InvertibleModule", "FrEIA", "InvertibleModule")
    if shape is None:
        dims: Any = module.dims_in
        shape = tuple(dims) if isinstance(dims[0], int) else tuple(dims[0])
    return _chain(_Freia, module.module_list if is_from(module, "FrEIA", "SequenceINN") else [module], shape)


@final
class _Normflows(_Flow):
    def _encode(self, x: Tensor) -> Tensor:
        return self._encode_with_log_det(x)[0]

    def _decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.module(z)[0]
        return x

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        z, log_det = self.module.inverse(x)
        return z, log_det


def from_normflows(flow: Any, shape: Sequence[int]) -> Bijection:
    """The chart of a normflows `NormalizingFlow` or one of its layers, from data to noise: `flow.inverse`.

    Raises:
        DtypeError: not an object of normflows.
        NotInvertible: a layer does not map points of this shape there and back: Planar, BatchNorm, multiscale splits.
    """
    require_from(flow, "a normflows NormalizingFlow or Flow", "normflows", "NormalizingFlow", "Flow")
    return _chain(_Normflows, reversed(flow.flows) if is_from(flow, "normflows", "NormalizingFlow") else [flow], shape)


@final
class _Nflows(_Flow):
    def _encode(self, x: Tensor) -> Tensor:
        return self._encode_with_log_det(x)[0]

    def _decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.module.inverse(z)[0]
        return x

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        z, log_det = self.module(x)
        return z, log_det


def from_nflows(flow: Any, shape: Sequence[int]) -> Bijection:
    """The chart of an nflows `Flow` or `Transform`, from data to noise, without context.

    Raises:
        DtypeError: not an object of nflows.
        NotInvertible: a layer does not map points of this shape there and back.
    """
    require_from(flow, "an nflows Flow or Transform", "nflows", "Flow", "Transform")
    return _chain(_Nflows, _transforms(flow._transform if is_from(flow, "nflows", "Flow") else flow), shape)


def _transforms(transform: Any) -> Iterator[nn.Module]:
    if is_from(transform, "nflows", "CompositeTransform"):
        for part in transform._transforms:
            yield from _transforms(part)
    else:
        yield transform
