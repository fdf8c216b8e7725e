"""A layer of a foreign flow as a chart, and the chain of them, with a context or without."""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from induced._registry import FOREIGN, not_saved
from induced._validate import require_shape
from induced.bijections.adapters.base import AdaptedWithDeterminant, Map, composed, is_from, require_one_function
from induced.bijections.adapters.transforms import require_there_and_back
from induced.bijections.base import Bijection
from induced.bijections.conditional import ConditionalBijection
from induced.bijections.normalize import channels_varied
from induced.errors import InducedError, NotInvertible, ShapeError
from induced.operators.algebra import register

Given = TypeVar("Given", Tensor, tuple[Tensor, object])


class Layer(AdaptedWithDeterminant):
    """One layer of a foreign flow, at its context if it takes one; tried once on points of zeros, which gives its `coord_shape`.

    The maps that subclasses give take the contexts of the rows as a keyword.
    """

    module: Any

    def __init__(
        self, module: nn.Module, shape: Sequence[int], context: Tensor | None = None, tried: "Layer | None" = None
    ) -> None:
        super().__init__(shape)
        self.module = module
        self.context: Tensor | None = None
        if context is not None:
            del self.context
            register(self, "context", context)
        require_one_function(self)
        self.train(self.training)
        self._waits = bool(self._waiting())
        self._opaque = False
        if tried is None:
            self._try()
        else:
            self.coord_shape, self._opaque = tried.coord_shape, tried._opaque

    def at(self, context: Tensor) -> "Layer":
        """The layer at another context; itself if it takes none."""
        return self if self.context is None else type(self)(self.module, self.shape, context, tried=self)

    def _try(self) -> None:
        trial = copy.deepcopy(self) if self._waits else self
        x = torch.zeros(2, *self.shape, dtype=self.dtype, device=self.device)
        maps: Any = (trial._encode, trial._decode)
        if self.context is not None:
            one = self.context.detach().reshape(-1, self.context.shape[-1])[0]
            maps = (partial(each, context=one.expand(2, -1)) for each in maps)
        encode, decode = maps
        try:
            with torch.no_grad():
                z = encode(x)
                require_shape(decode(z), x.shape, "what the flow gives back")
        except Exception as error:
            raise NotInvertible(
                f"{type(self.module).__name__} does not map points of shape {self.shape} there and back "
                f"({type(error).__name__}: {error}); the shape may be wrong, a context missing, or the layer without inverse"
            ) from error
        try:
            with torch.no_grad():
                torch.func.jvp(decode, (z,), (z,))
        except RuntimeError:
            self._opaque = True
        self.coord_shape = tuple(z.shape[1:])

    def _in_rows(self, function: Map, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        self._require_ready(x)
        return super()._in_rows(self._with_context(function, x, before), x, before, after)

    def _in_rows_with_log_det(
        self, function: Callable[[Tensor], tuple[Tensor, object]], x: Tensor, before: Sequence[int], after: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        self._require_ready(x)
        return super()._in_rows_with_log_det(self._with_context(function, x, before), x, before, after)

    def _with_context(self, function: Callable[..., Given], x: Tensor, event: Sequence[int]) -> Callable[[Tensor], Given]:
        """The function of rows with the context of each row."""
        context = self.context
        if context is None:
            return function
        batch, given = x.shape[: x.dim() - len(event)], context.shape[:-1]
        if len(given) > len(batch) or any(n not in (1, m) for n, m in zip(reversed(given), reversed(batch), strict=False)):
            raise ShapeError(f"contexts of shape {tuple(context.shape)} do not fit a batch {tuple(batch)} of points")
        return partial(function, context=context.expand(*batch, context.shape[-1]).reshape(-1, context.shape[-1]))

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
                f"{type(self.module).__name__} computes in a way that torch.func does not take, so that it has no amplification "
                f"and no law can be judged; its maps and gradients work"
            )

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
            self._with_context(self._encode, rows, self.shape)(channels_varied(rows, self.shape))
        self.train(self.training)

    def extra_repr(self) -> str:
        return f"{type(self.module).__name__}, {super().extra_repr()}"


def _waits_for_data(module: nn.Module) -> bool:
    if is_from(module, "FrEIA"):
        return bool(getattr(module, "init_on_next_batch", False))
    if is_from(module, "normflows"):
        return not getattr(module, "data_dep_init_done", True)
    return is_from(module, "nflows", "ActNorm") and not module.initialized


@final
@not_saved(FOREIGN)
class ConditionalFlow(ConditionalBijection):
    """The charts of the layers of a foreign flow, one chart a context of length k."""

    def __init__(self, layers: Sequence[Layer], k: int, embedding: nn.Module) -> None:
        super().__init__()
        self.layers, self.k, self.embedding = nn.ModuleList(layers), k, embedding

    def bind(self, context: Tensor) -> Bijection:
        if context.shape[-1] != self.k:
            raise ShapeError(f"this flow takes contexts of shape (*batch, {self.k}), got {tuple(context.shape)}")
        embedded = self.embedding(context)
        return composed([layer.at(embedded) for layer in self.layers])  # type: ignore[operator]


Context = int | Tensor | None


def chain(
    kind: type[Layer],
    modules: Iterable[tuple[nn.Module, bool]],
    shape: Sequence[int],
    context: Context,
    whole: nn.Module,
    embedding: nn.Module | None = None,
) -> Bijection | ConditionalBijection:
    """The chart of modules, of each of which is said whether it takes the context; or, for a length, that of every context."""
    modules = list(modules)
    if context is None and any(depends_on_context(module) for module, _ in modules):
        raise NotInvertible(
            f"{type(whole).__name__} depends on a context: pass context=k, the length of a context, for a ConditionalBijection "
            f"whose .at(c) is a chart, or context=c, a tensor (k,), for the chart of this context"
        )
    if context is not None and not any(takes for _, takes in modules):
        raise ShapeError(f"{type(whole).__name__} takes no context, got context={context}")
    like = next((t for module, _ in modules for t in module.parameters()), torch.zeros(()))
    embedding = embedding or nn.Identity()
    bound = like.new_zeros(context) if isinstance(context, int) else context
    try:
        bound = None if bound is None else embedding(bound)
    except RuntimeError as error:
        raise NotInvertible(f"the embedding of {type(whole).__name__} does not take context={context}: {error}") from error
    layers: list[Layer] = []
    for module, takes in modules:
        layers.append(kind(module, layers[-1].coord_shape if layers else shape, bound if takes else None))
    if not any(layer._waits for layer in layers):
        one = None if bound is None else bound.detach().reshape(-1, bound.shape[-1])[0]
        require_there_and_back(composed([layer if one is None else layer.at(one) for layer in layers]), type(whole).__name__)
    return ConditionalFlow(layers, context, embedding) if isinstance(context, int) else composed(layers)


def depends_on_context(module: nn.Module) -> bool:
    """Whether a layer of FrEIA has a condition, or one of nflows or normflows a network that adds a context, if it gets one."""
    if is_from(module, "FrEIA"):
        return bool(conditions(module))
    named = ("context_layer", "context_features", "context_channels")
    return any(getattr(part, name, None) for part in module.modules() for name in named)


def conditions(module: Any) -> list[Any]:
    """The shapes of the conditions of a FrEIA module."""
    if is_from(module, "FrEIA", "GraphINN"):
        return [node.output_dims[0] for node in module.condition_nodes]
    return list(module.dims_c)
