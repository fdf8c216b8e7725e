"""Charts that depend on a context: `at(context)` returns an ordinary chart, so that nothing else knows of contexts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._module import Module
from induced._numerics import linear_algebra
from induced._registry import named, recipe, register, saved_as
from induced._validate import require_floating
from induced.bijections.base import Bijection, Composition
from induced.bijections.coupling import AffineCoupling, Coupling
from induced.bijections.normalize import DataDependent, channel_affine, channelwise
from induced.errors import CheckpointError, InducedError, ShapeError

Context = float | Tensor


class ConditionalBijection(Module, ABC):
    """c -> g_c, a chart for each context. Subclasses implement `bind`; callers use `at`, which also names the chart.

    Two charts `parent.at(c)` with equal c are the same chart, and so are the spaces they make. A tensor context is compared by
    identity, a number by value.
    """

    @abstractmethod
    def bind(self, context: Tensor) -> Bijection:
        """The chart g_c for a context of shape (*batch, k)."""

    def forward(self, *arguments: object) -> Tensor:
        raise InducedError(f"{type(self).__name__} is a chart for each context: call the chart of one, g.at(context)(x)")

    def at(self, context: Context) -> Bijection:
        """The chart g_c.

        Arguments:
            context: a number (for k = 1), or a tensor of shape (k,) or (*batch, k), batch that of the points.
        """
        like = next(self.parameters(), torch.zeros(()))
        vector = context if isinstance(context, Tensor) else like.new_full((1,), float(context))
        require_floating(vector, "a context")
        if vector.dim() == 0:
            raise ShapeError("a context is a number or a tensor of shape (*batch, k), got a tensor without dimensions")
        chart = self.bind(vector)
        chart._origin = (self, _Same(context) if isinstance(context, Tensor) else float(context))
        return chart


class _Same:
    """Equality of a tensor by identity, keeping the tensor alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


# a part of a chart at a context, once a composition has taken that chart apart
@saved_as("bijections.Bound", "conditioner", "context")
class _Bound(nn.Module):
    """A conditioner with its context filled in."""

    context: Tensor

    def __init__(self, conditioner: nn.Module, context: Tensor) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.register_buffer("context", context, persistent=False)

    def forward(self, a: Tensor) -> Tensor:
        if self.context.is_cpu != a.is_cpu:  # the parent has moved since
            self.context = self.context.to(a.device)
        out: Tensor = self.conditioner(a, self.context)
        return out


def _described(g: "ConditionalCoupling") -> dict[str, Any]:
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


def _built(
    shape: list[int], conditioner: nn.Module, flip: bool, kind: str, names: list[str], **given: Any
) -> "ConditionalCoupling":
    made: Any = named(kind, "the kind of a ConditionalCoupling").cls
    if not issubclass(made, Coupling):
        raise CheckpointError(f"the kind of a ConditionalCoupling is a class of couplings, not {kind!r}")
    keywords = {key: given[f"keyword_{key}"] for key in names}
    return ConditionalCoupling(shape, conditioner, flip=flip, kind=partial(made, **keywords) if keywords else made)


@final
@saved_as("bijections.ConditionalCoupling", describe=_described, build=_built)
class ConditionalCoupling(ConditionalBijection):
    """A coupling whose conditioner takes (kept half, context); `kind` makes it from (shape, conditioner, flip=flip)."""

    def __init__(
        self,
        shape: Sequence[int],
        conditioner: nn.Module,
        *,
        flip: bool = False,
        kind: Callable[..., Coupling] = AffineCoupling,
    ) -> None:
        super().__init__()
        self.shape, self.conditioner, self.flip, self.kind = tuple(shape), conditioner, bool(flip), kind

    def bind(self, context: Tensor) -> Bijection:
        return self.kind(self.shape, _Bound(self.conditioner, context), flip=self.flip)


@saved_as("bijections.ChannelAffine", "parent", "context")
class _ChannelAffine(Bijection):
    """z = exp(s) x + b per channel, s and b those of the parent at a context."""

    context: Tensor

    def __init__(self, parent: "ConditionalActNorm", context: Tensor) -> None:
        super().__init__(parent.shape)
        self.parent = parent
        self.register_buffer("context", context, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        log_scale, shift = self.parent.log_scale_and_shift(self.context)
        return x * channelwise(log_scale.exp(), self.shape) + channelwise(shift, self.shape)

    def inverse(self, z: Tensor) -> Tensor:
        log_scale, shift = self.parent.log_scale_and_shift(self.context)
        return (z - channelwise(shift, self.shape)) * channelwise((-log_scale).exp(), self.shape)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x) + self._log_abs_det()

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), self._batch_zeros(z) - self._log_abs_det()

    def _log_abs_det(self) -> Tensor:
        log_scale, _ = self.parent.log_scale_and_shift(self.context)
        return math.prod(self.shape[1:]) * log_scale.sum(-1)

    def initialize(self, batch: Tensor) -> None:
        self.parent.initialize(batch, self.context)


@final
@saved_as("bijections.ConditionalActNorm", describe=lambda g: {"shape": g.shape, "context": len(g.first)})
class ConditionalActNorm(DataDependent, ConditionalBijection):
    """An ActNorm whose log-scale and shift are affine in the context: (s, b)(c) = (s, b)_0 + W c.

    `at(c).initialize(batch)` sets it for c; a second context corrects W so that the first one keeps its values.
    """

    first: Tensor

    def __init__(self, shape: Sequence[int], context: int) -> None:
        nn.Module.__init__(self)
        self.shape = tuple(shape)
        self.offset = nn.Parameter(torch.zeros(2, self.shape[0]))
        self.weight = nn.Parameter(torch.zeros(2, self.shape[0], context))
        self.register_buffer("first", torch.zeros(context))
        self._register_state()

    def log_scale_and_shift(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """s and b at a context of shape (*batch, k), each of shape (*batch, C)."""
        self._require_ready()
        return self._value(0, context), self._value(1, context)

    @linear_algebra
    def _value(self, i: int, context: Tensor) -> Tensor:
        return self.offset[i] + context @ self.weight[i].mT

    def initialize(self, batch: Tensor, context: Tensor) -> None:
        """Give the batch mean 0 and variance 1 per channel at this context."""
        if context.dim() != 1:
            raise ShapeError(f"an ActNorm is initialised at one context of shape (k,), got {tuple(context.shape)}")
        wanted = channel_affine(batch, self.shape)
        step = context - self.first
        with torch.no_grad():
            for i, target in enumerate(wanted):
                error = target - self._value(i, context)
                if self._ready and bool((step != 0).any()):
                    self.weight[i] += error.unsqueeze(-1) * (step / (step @ step))
                else:
                    self.offset[i] += error
            if not self._ready:
                self.first.copy_(context)
        self._mark_ready()

    def bind(self, context: Tensor) -> Bijection:
        return _ChannelAffine(self, context)


@final
@saved_as("bijections.ConditionalComposition", "*parts")
class ConditionalComposition(ConditionalBijection):
    """A composition some of whose parts, given in order of application, depend on the context."""

    def __init__(self, *parts: Bijection | ConditionalBijection) -> None:
        super().__init__()
        if not parts:
            raise ShapeError("a composition needs at least one chart")
        self.parts = nn.ModuleList(parts)

    def bind(self, context: Tensor) -> Bijection:
        return Composition(*(part.bind(context) if isinstance(part, ConditionalBijection) else part for part in self.parts))  # type: ignore[arg-type]


def _is_bound(chart: Bijection) -> bool:
    return chart._origin is not None and isinstance(chart._origin[0], ConditionalBijection)


def _at(chart: Bijection) -> dict[str, Any]:
    parent, context = chart.identity()
    return {"parent": parent, "context": context.tensor if isinstance(context, _Same) else context}


def _bound_again(parent: ConditionalBijection, context: Context) -> Bijection:
    chart, like = parent.at(context), next(parent.parameters(), None)
    for module in chart.modules() if like is not None else ():
        if isinstance(module, _Bound | _ChannelAffine):  # as if parent and context had been moved together
            module.context = module.context.to(like)
    return chart


register(Bijection, describe=_at, build=_bound_again, name="bijections.at", when=_is_bound)  # type: ignore[type-abstract]
