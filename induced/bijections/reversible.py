"""Reversible back-propagation: activations are recomputed by inversion, so that depth costs no memory."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, cast, final

import torch
from torch import Tensor

from induced._registry import saved_as
from induced._validate import eager
from induced.bijections.base import Bijection, Inverse
from induced.bijections.coupling import Coupling
from induced.errors import InducedError
from induced.precision import same_precision


@final
# its recipe comes before that of a chart at a context, whose identity it takes
@saved_as("bijections.Reversible", "chart", when=lambda g: True)
class Reversible(Bijection):
    """The same chart, trained with activation memory that does not grow with its depth.

    Of a pass only the result is kept. Back-propagation goes through the layers from the last to the first: each one's input is
    recomputed by its inverse, and the layer run again with gradients, alone. It holds for g, g^-1 and log|det J|; the gradients
    are those of ordinary back-propagation up to the rounding of the inversion, which is that of the chart (`rounding`): a chart
    that cannot be inverted accurately cannot be trained accurately this way. It costs about one more pass through the chart.

    Inside torch.func and torch.compile the chart works as if it were not wrapped. Only parameters and buffers get gradients.

    Arguments:
        chart: any chart; the gain is that of a long composition.

    Raises:
        InducedError: in a backward pass with `create_graph=True`; second derivatives need the chart that is wrapped.

    Example:
        >>> from induced.bijections import real_nvp
        >>> g = Reversible(real_nvp(4, blocks=64))
        >>> g(torch.randn(8, 4)).square().sum().backward()
        >>> all(p.grad is not None for p in g.parameters())
        True

    Law:
        values are those of `chart`, gradients too within its rounding (laws/test_couplings.py)
    """

    def __init__(self, chart: Bijection) -> None:
        super().__init__(chart.shape, chart.coord_shape)
        self.chart = chart
        self._origin = chart.identity()
        self.moves_entries, self.lattice_step = chart.moves_entries, chart.lattice_step

    def forward(self, x: Tensor) -> Tensor:
        tensors = _trained(self.layers())
        return _Recomputed.run(self.chart, x, tensors)[0] if _recorded(x, tensors) else self.chart(x)

    def inverse(self, z: Tensor) -> Tensor:
        tensors = _trained(self.layers())
        return _Recomputed.run(self.chart.inv, z, tensors)[0] if _recorded(z, tensors) else self.chart.inverse(z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tensors = _trained(self.layers())
        if not _recorded(x, tensors):
            return self.chart.forward_and_log_abs_det(x)
        return _Recomputed.run(self.chart, x, tensors, with_log_det=True)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        tensors = _trained(self.layers())
        if not _recorded(z, tensors):
            return self.chart.inverse_and_log_abs_det(z)
        return _Recomputed.run(self.chart.inv, z, tensors, with_log_det=True)

    def roundoff(self, x: Tensor) -> Tensor:
        return self.chart.roundoff(x)

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        return self.chart.inverse_roundoff(z)

    def initialize(self, batch: Tensor) -> None:
        self.chart.initialize(batch)

    def layers(self) -> tuple[Bijection, ...]:
        return self.chart.layers()


def _trained(layers: Iterable[Bijection]) -> list[Tensor]:
    """The parameters and buffers that get a gradient, each once; none while compiling, where nothing is recorded."""
    if torch.compiler.is_compiling():
        return []
    found = {id(t): t for layer in layers for t in chain(layer.parameters(), layer.buffers()) if t.requires_grad}
    return list(found.values())


def _recorded(x: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether ordinary autograd, and not a transform of torch.func or a compiler, will ask for gradients."""
    return torch.is_grad_enabled() and (x.requires_grad or len(tensors) > 0) and all(map(eager, (x, *tensors)))


class _Recomputed(torch.autograd.Function):
    """A chart of whose pass only the result is saved."""

    @classmethod
    def run(cls, chart: Bijection, x: Tensor, tensors: Sequence[Tensor], *, with_log_det: bool = False) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = cls.apply(chart, with_log_det, x, *tensors)  # type: ignore[no-untyped-call]
        return result

    @staticmethod
    def forward(ctx: Any, chart: Bijection, with_log_det: bool, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        z, log_det = chart.forward_and_log_abs_det(x) if with_log_det else (chart(x), None)
        device = x.device.type
        ctx.layers, ctx.with_log_det = chart.layers(), with_log_det
        ctx.autocast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        ctx.precision = same_precision()
        ctx.keys = [id(t) for t in tensors]
        # the tensors are saved so that a change of one before the backward pass is an error, as in ordinary autograd
        ctx.save_for_backward(z, *tensors)
        return z, log_det

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InducedError(
                "a Reversible chart has first derivatives only, and create_graph=True asks for more: use the chart that it wraps"
            )
        z = ctx.saved_tensors[0]
        grad, grad_log_det = grads[0], grads[1] if ctx.with_log_det else None
        totals: dict[int, Tensor] = {}
        with torch.autocast(z.device.type, **ctx.autocast), ctx.precision():
            for layer in reversed(ctx.layers):
                own = _trained((layer,))
                z, grad, found = _pull_back(layer, z, grad, grad_log_det, own)
                for tensor, part in zip(own, found, strict=True):
                    if part is not None:
                        key = id(tensor)
                        totals[key] = totals[key] + part if key in totals else part
        return None, None, grad, *map(totals.get, ctx.keys)


Pulled = tuple[Tensor, Tensor, Sequence[Tensor | None]]


def _pull_back(layer: Bijection, z: Tensor, grad: Tensor, grad_log_det: Tensor | None, own: list[Tensor]) -> Pulled:
    """The input of a layer with output z, and the gradients for it and for the layer's own tensors."""
    if isinstance(layer, Coupling):
        return _pull_back_coupling(layer, z, grad, grad_log_det, own, inverted=False)
    if isinstance(layer, Inverse) and isinstance(layer.bijection, Coupling):
        return _pull_back_coupling(layer.bijection, z, grad, grad_log_det, own, inverted=True)
    x = layer.inverse(z).detach().requires_grad_()
    with torch.enable_grad():
        outputs = (layer(x),) if grad_log_det is None else layer.forward_and_log_abs_det(x)
    of_x, *found = _gradients(outputs, (x, *own), (grad, grad_log_det))
    return x.detach(), torch.zeros_like(x) if of_x is None else of_x, found


def _pull_back_coupling(
    layer: Coupling, z: Tensor, grad: Tensor, grad_log_det: Tensor | None, own: list[Tensor], *, inverted: bool
) -> Pulled:
    """The same with one call of the conditioner, which sees the same half both ways."""
    kept, changed = layer._roles(layer._split(z))
    grad_kept, grad_changed = layer._roles(layer._split(grad))
    kept = kept.detach().requires_grad_()
    with torch.enable_grad():
        parameters = layer._condition(kept, changed)
    there, back = (layer._restore, layer._transform) if inverted else (layer._transform, layer._restore)
    before = back(changed, parameters)[0].detach().requires_grad_()
    with torch.enable_grad():
        after, log_slope = there(before, parameters)
        outputs = (after,) if log_slope is None else (after, layer._event_sum(log_slope))
    of_kept, of_before, *found = _gradients(outputs, (kept, before, *own), (grad_changed, grad_log_det))
    grad_kept = grad_kept if of_kept is None else grad_kept + of_kept
    joined, joined_grad = layer._roles((kept.detach(), before.detach())), layer._roles((grad_kept, cast(Tensor, of_before)))
    return layer._join(joined), layer._join(joined_grad), found


def _gradients(outputs: Iterable[Tensor], inputs: Sequence[Tensor], grads: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad, over the outputs that have a gradient and depend on an input."""
    pairs = [(y, g) for y, g in zip(outputs, grads, strict=False) if g is not None and y.requires_grad]
    return torch.autograd.grad([y for y, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
