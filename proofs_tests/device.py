"""A stand-in for an accelerator: it computes on the CPU, refuses what CUDA refuses, and logs each wait and each copy.

`with StandIn() as gpu: y = f(x.to(gpu.device))`. Values are real, so that code which looks at them runs. It refuses operands on
two devices, generators of the CPU and, if asked to, float64. It does not model the rounding of CUDA's kernels, streams, autocast,
or time.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _disabled_torch_function_impl
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "gpu"
HOUSE = f"{Path(__file__).parents[1]}/"

WAITS = {
    # values that the host reads
    *("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"),
    # sizes that values decide
    *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_consecutive", "aten::unique_dim"),
    *("aten::repeat_interleave.Tensor", "aten::bincount"),
    # error codes that torch reads after a factorisation; `inv_ex` and its like leave them on the device
    *("aten::_linalg_check_errors", "aten::_linalg_eigh", "aten::_linalg_svd", "aten::linalg_eig", "aten::_linalg_eigvals"),
    *("aten::linalg_lstsq", "aten::linalg_matrix_exp", "aten::linalg_pinv.atol_rtol_tensor"),
}
"""Operators for whose result the host waits on CUDA, as torch 2.13 is written."""

INDEXING = {"aten::index.Tensor", "aten::_unsafe_index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operators that take indices from the host, and wait for the number of true entries of a mask."""

JOINING = {"aten::cat", "aten::stack"}
"""Operators that do not even take a single number of another device."""

LAZY = {"aten::_conj": torch.conj_physical, "aten::_neg_view": torch.neg}
"""Views with a lazy bit, which the wrapper has not: they are computed."""


class Mismatch(RuntimeError):
    """What CUDA would refuse: operands or a generator of another device."""


class Event(NamedTuple):
    """A wait or a copy: its operator, the line of this project that asked for it, and the bytes that were copied."""

    kind: str
    operator: str
    where: str
    size: int = 0


class Log:
    """What happened on the device: waits, copies to it and to the host, and the number of kernels."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.kernels = 0

    def _of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    @property
    def waits(self) -> list[Event]:
        """For values, sizes and error codes; each copy to the host is one more, and counted there."""
        return self._of("wait")

    @property
    def to_device(self) -> list[Event]:
        return self._of("to device")

    @property
    def to_host(self) -> list[Event]:
        return self._of("to host")

    def counts(self) -> tuple[int, int, int]:
        """Waits, copies to the host, copies to the device."""
        return len(self.waits), len(self.to_host), len(self.to_device)

    def __str__(self) -> str:
        """Each kind of event with its line, the most frequent first."""
        found = Counter((event.kind, event.operator, event.where) for event in self.events)
        lines = [f"{number:5} {kind:<9} {operator:<32} {where}" for (kind, operator, where), number in found.most_common()]
        return "\n".join([f"{self.kernels} kernels, {len(self.events)} waits and copies", *lines])


class OnDevice(Tensor):
    """A tensor of the device; `raw` holds its numbers, on the CPU."""

    raw: Tensor
    __torch_function__: Any = _disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _current().run(func, args, kwargs or {})

    # with these two, `module.to(device)` keeps a parameter the same object, as it does on CUDA
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: object, stride: object) -> "OnDevice":
        return OnDevice(inner["raw"])

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made = OnDevice(self.raw.detach().clone(memory_format=torch.preserve_format))
            parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(made, self.requires_grad) if parameter else made.requires_grad_(self.requires_grad)
        return cast(Tensor, memo[id(self)])

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"OnDevice({self.raw!r})"


class _Module:
    """What torch asks of the module of a device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return bool(_entered)

    def is_built(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: object = None) -> None: ...

    def manual_seed_all(self, seed: int) -> None: ...

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@cache
def register() -> None:
    """Make "gpu" the name of a device; torch takes one name a process.

    Raises:
        NotImplementedError: this version of torch has no devices that are written in Python.
    """
    set_up = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if set_up is None:
        raise NotImplementedError(f"torch {torch.__version__} has no devices that are written in Python")
    set_up(rename=NAME, backend_module=_Module())


_entered: "list[StandIn]" = []


def _current() -> "StandIn":
    if not _entered:
        raise RuntimeError(f"a tensor of the device {NAME!r} is used outside `with StandIn()`")
    return _entered[-1]


class StandIn:
    """The device, while it is entered: `with StandIn() as gpu: x.to(gpu.device)`.

    Arguments:
        float64: whether it has that dtype; Apple's accelerators have not.
    """

    def __init__(self, *, float64: bool = True) -> None:
        register()
        self.device = torch.device(NAME, 0)
        self.float64 = float64
        self.log: Log | None = None

    def __enter__(self) -> Self:
        _entered.append(self)
        self._modes = ExitStack()
        self._modes.enter_context(_Dispatch())
        self._modes.enter_context(_Constructors())
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
        _entered.pop()

    @contextmanager
    def recording(self) -> Iterator[Log]:
        """The log of what happens inside."""
        outer, self.log = self.log, Log()
        try:
            yield self.log
        finally:
            self.log = outer

    def run(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An operator as the device would run it, or refuse it."""
        name = func.name()
        there = [t for t in _tensors((args, kwargs)) if isinstance(t, OnDevice)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if name in {"aten::_pin_memory", "aten::is_pinned"}:
            return func(*_raw(args), **_raw(kwargs))
        if name == "aten::_to_copy":
            return self._converted(func, args, kwargs, target)
        if name == "aten::copy_":
            return self._written(args[0], args[1])
        if target is not None:
            return self._made(func, args, kwargs, target)
        if not there:
            return func(*args, **kwargs)
        self._refuse(name, args, kwargs)
        if name in WAITS or (name in INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))):
            self._note("wait", name)
        if name in LAZY:
            return self._wrapped(LAZY[name](there[0].raw))
        with _disable_current_modes():
            result = tree_map(_without_lazy_bits, func(*_raw(args), **_raw(kwargs)))
        if not _tensors(result):
            return result
        if self.log is not None and not func.is_view:
            self.log.kernels += 1
        return return_and_correct_aliasing(func, args, kwargs, self._wrapped(result))

    def _converted(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], target: torch.device | None) -> Tensor:
        """x.to(...): between dtypes, or between devices."""
        source = args[0]
        to_device = isinstance(source, OnDevice) if target is None else target.type == NAME
        raw: Tensor = func(_raw(source), **{name: value for name, value in kwargs.items() if name != "device"})
        if to_device != isinstance(source, OnDevice):
            self._note("to device" if to_device else "to host", func.name(), source)
        elif to_device and self.log is not None:
            self.log.kernels += 1
        return cast(Tensor, self._wrapped(raw)) if to_device else raw

    def _written(self, target: Tensor, source: Tensor) -> Tensor:
        """target.copy_(source), within a device or between two."""
        if isinstance(target, OnDevice) != isinstance(source, OnDevice):
            self._note("to device" if isinstance(target, OnDevice) else "to host", "aten::copy_", source)
        elif isinstance(target, OnDevice) and self.log is not None:
            self.log.kernels += 1
        _raw(target).copy_(_raw(source))
        return target

    def _made(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], target: torch.device) -> Any:
        """What takes a device, as zeros and randn do."""
        on_device = target.type == NAME
        if func.name() == "aten::_efficientzerotensor":  # of forward-mode derivatives: zeros without memory
            func = torch.ops.aten.zeros.default
        if on_device:
            _refuse_generators(func.name(), args, kwargs)
        made = func(*_raw(args), **{**_raw(kwargs), "device": torch.device("cpu") if on_device else target})
        if on_device and self.log is not None:
            self.log.kernels += 1
        return self._wrapped(made) if on_device else made

    def _refuse(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise Mismatch where CUDA would; a single number of the CPU may stand beside tensors of the device."""
        _refuse_generators(name, args, kwargs)
        given: Any = (args, kwargs)
        if name in INDEXING and isinstance(args[0], OnDevice):
            for index in _tensors(args[1]):
                if not isinstance(index, OnDevice):
                    self._note("to device", name, index)
            given = (args[0], args[2:])
        off = [t for t in _tensors(given) if not isinstance(t, OnDevice) and (t.dim() or name in JOINING)]
        if off:
            raise Mismatch(
                f"{name}: Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu!"
            )

    def _wrapped(self, result: Any) -> Any:
        return tree_map(self._wrap, result)

    def _wrap(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, OnDevice):
            return value
        if not self.float64 and value.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert a Tensor of {NAME} to float64 dtype as {NAME} doesn't support float64")
        return OnDevice(value)

    def _note(self, kind: str, operator: str, copied: Tensor | None = None) -> None:
        if self.log is not None:
            size = 0 if copied is None else copied.numel() * copied.element_size()
            self.log.events.append(Event(kind, operator, _line(), size))


class _Dispatch(TorchDispatchMode):
    """Operators of tensors of the CPU, some of which make one of the device."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _current().run(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """What torch does below its dispatcher: tensors of numbers, their numbers, and lists as indices."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, data, *rest = args
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            func, args = torch.tensor, (data, *rest)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            target = torch.device(kwargs["device"])
            if target.type == NAME or isinstance(args[0], OnDevice):
                requires_grad = kwargs.pop("requires_grad", False)
                given = args[0].detach().clone() if isinstance(args[0], Tensor) and func is torch.tensor else args[0]
                made = torch.as_tensor(given) if isinstance(given, Tensor) else func(given, dtype=kwargs.get("dtype"))
                moved = made.to(target, kwargs.get("dtype"))
                return moved.requires_grad_(requires_grad) if requires_grad else moved
        if func is torch.as_tensor and isinstance(args[0], OnDevice):
            return args[0] if kwargs.get("dtype") is None else args[0].to(kwargs["dtype"])
        if func is Tensor.numpy and isinstance(args[0], OnDevice):
            raise TypeError(
                f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"
            )
        if func is Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].detach().to("cpu").tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            index = args[1]
            index = tuple(map(_index, index)) if isinstance(index, tuple) else _index(index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def _index(index: Any) -> Any:
    return torch.as_tensor(index) if isinstance(index, list | np.ndarray) else index


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _raw(values: Any) -> Any:
    return tree_map(lambda value: value.raw if isinstance(value, OnDevice) else value, values)


def _without_lazy_bits(value: Any) -> Any:
    return value.resolve_conj().resolve_neg() if isinstance(value, Tensor) else value


def _refuse_generators(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
        raise Mismatch(f"{name}: Expected a {NAME!r} device type for generator but found 'cpu'")


def _line() -> str:
    """The innermost line of this project outside this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(HOUSE) and path != __file__ and "site-packages" not in path:
            return f"{path.removeprefix(HOUSE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"
