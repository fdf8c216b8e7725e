"""Full precision of float32 on a GPU: outside TF32, whose products keep 10 of the 23 bits of a mantissa.

cuDNN's convolutions run in TF32 unless torch is told otherwise, and the laws of a chart made of them then hold to 1e-3, not to
1e-7. So `coords` and `point` of a space and products with an operator run in full precision, and with them f(x), `f.H`,
`f.pinv()` and the rest; so do the checks and the estimates of rounding. A chart called by itself, `chart(x)`, runs as torch's
flags say, and warns once.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

from induced.errors import explain_float64

__all__ = ["allow_tf32", "full_precision"]

Switch = tuple[str, str]

# parents first: a switch that is not set follows its parent
_SWITCHES: tuple[Switch, ...] = (
    ("generic", "all"),
    *(("cuda", kind) for kind in ("all", "conv", "rnn", "matmul")),
    *(("mkldnn", kind) for kind in ("all", "conv", "rnn", "matmul")),
)
_MATMUL: tuple[Switch, ...] = (("cuda", "matmul"), ("mkldnn", "matmul"))
_FINE = hasattr(torch._C, "_get_fp32_precision_getter")
"""Whether torch has `fp32_precision`, as from 2.9 on, besides `allow_tf32`."""

_allowed: ContextVar[bool] = ContextVar("allow_tf32", default=False)


def _get(switch: Switch) -> str:
    """A switch, or its nearest parent that is set."""
    value: str = torch._C._get_fp32_precision_getter(*switch)
    return value


def _set(switch: Switch, value: str) -> None:
    torch._C._set_fp32_precision_setter(*switch, value)


def _matmul_precision() -> str:
    """ "highest", "high" or "medium"; torch raises where it was not set by this flag, but by `fp32_precision`."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"


def _to_ieee() -> Callable[[], None]:
    """Set all switches to IEEE float32; the result sets them to what they were."""
    matmul = _matmul_precision()
    changed: list[tuple[Switch, str]] = []
    if _FINE and matmul != "highest":
        changed = [(switch, _get(switch)) for switch in _MATMUL]
    if matmul != "highest":
        torch.set_float32_matmul_precision("highest")
    cudnn = None if _FINE else torch.backends.cudnn.allow_tf32
    if _FINE:
        # where a parent reaches a switch, the switch itself stays as it is, and follows its parent afterwards, too
        for switch in _SWITCHES:
            if (value := _get(switch)) != "ieee":
                _set(switch, "ieee")
                changed.append((switch, value))
    else:
        torch.backends.cudnn.allow_tf32 = False

    def restore() -> None:
        if matmul != "highest":
            torch.set_float32_matmul_precision(matmul)
        for switch, value in reversed(changed):
            _set(switch, value)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn

    return restore


class _Flags:
    """The switches belong to the process: the first thread inside saves them, and the last one out restores them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.restore: Callable[[], None] = lambda: None

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.restore = _to_ieee()
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.restore()


_flags = _Flags()


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it, float32 convolutions and matrix products are IEEE float32: no TF32 on CUDA, no bfloat16 of oneDNN on a CPU.

    torch's flags are set and put back as they were, also where something raises. They belong to the process: while one thread is
    inside, all compute in full precision. It is a decorator, too: `@full_precision()`. A backward pass obeys the flags of its own
    time: for gradients in full precision, call `backward` inside. autocast still casts inside. From torch 2.9 on, ask
    `torch.backends.cudnn.conv.fp32_precision` inside: torch raises where `torch.backends.cudnn.allow_tf32` is read, as
    `torch.backends.cudnn.flags(...)` reads it.

    Law:
        the laws of a chart of convolutions, which TF32 breaks, hold inside (laws/test_precision.py)

    Example:
        >>> import torch
        >>> from induced.bijections import real_nvp
        >>> chart = real_nvp(2)
        >>> with full_precision():
        ...     z = chart(torch.randn(3, 2))
    """
    if torch.compiler.is_compiling():  # a graph computes as the flags say when it runs
        yield
        return
    _flags.enter()
    try:
        yield
    finally:
        _flags.leave()


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Within it, spaces and operators leave torch's flags alone: training may use TF32, where the flags allow it.

    Nothing is switched on: torch's flags decide. It holds for the thread, or the asynchronous task, that opened it; an explicit
    `full_precision()` inside counts, as that of the checks.

    Example:
        >>> from induced import InducedSpace
        >>> from induced.bijections import real_nvp
        >>> X = InducedSpace(real_nvp(2))
        >>> with allow_tf32():
        ...     loss = X.coords(torch.randn(3, 2)).square().mean()
    """
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def same_precision() -> Callable[[], AbstractContextManager[None]]:
    """What opens the precision of here and now once more: for a backward pass that computes again, in a thread of its own."""
    if _flags.inside:
        return full_precision
    return allow_tf32 if _allowed.get() else nullcontext


def exactly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), in full precision where x is float32 on a device other than the CPU, which the caller has found out."""
    if torch.compiler.is_compiling():
        return function(x)
    try:
        if x.dtype != torch.float32 or _allowed.get():
            return function(x)
        with full_precision():
            return function(x)
    except TypeError as error:
        explain_float64(error)
        raise


def tf32_matmul() -> bool:
    """Whether matrix products on a GPU would run in TF32 that nobody here has allowed: only where a GPU is in use."""
    if torch.compiler.is_compiling() or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    return not _allowed.get() and _matmul_is_tf32()


def _matmul_is_tf32() -> bool:
    return _get(("cuda", "matmul")) == "tf32" if _FINE else _matmul_precision() != "highest"


def _convolution_is_tf32() -> bool:
    return _get(("cuda", "conv")) == "tf32" if _FINE else torch.backends.cudnn.allow_tf32


class _Once:
    """The one warning of a process."""

    given = False


def warn_of_tf32(x: Tensor, *, convolutions: bool) -> None:
    """Warn, once a process, that a chart runs in TF32; x is on a device other than the CPU, which the caller has found out."""
    if _Once.given or x.dtype != torch.float32 or x.is_meta or torch.compiler.is_compiling() or _allowed.get():
        return
    if _matmul_is_tf32() or (convolutions and _convolution_is_tf32()):
        _Once.given = True
        warnings.warn(
            f"a chart on {x.device} computes in TF32, as torch's flags allow: its laws hold to about 1e-3 only. Use its space, "
            f"InducedSpace(chart).coords(x), or `with induced.precision.full_precision():` around the call. Where TF32 is meant, "
            f"as in training, say so by `with induced.precision.allow_tf32():`",
            stacklevel=2,
        )
