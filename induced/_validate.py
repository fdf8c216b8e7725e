"""Checks of input, shared by every layer: shape and dtype always, values only in eager mode."""

import math
import operator
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from induced.errors import DomainError, DtypeError, ShapeError


def eager(x: Tensor) -> bool:
    """Whether the values of x may be looked at: not while compiling, exporting, under torch.func or on the meta device."""
    return visible(x) and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def visible(*tensors: Tensor) -> bool:
    """`eager`, or within torch.func.grad and its like, which keep values in sight, and not under vmap."""
    return not torch.compiler.is_compiling() and all(map(_visible, tensors))


def _visible(x: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)
    return not x.is_meta


def innermost(x: Tensor, what: str) -> Tensor:
    """x without the tangents and gradients that torch.func follows through it, whose values decide `what`.

    Raises:
        DomainError: x is a batch of torch.vmap, each sample of which might decide otherwise.
    """
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise DomainError(f"{what} is decided by values, which under torch.vmap differ from sample to sample: use a loop")
    return x


def require_one_forward() -> None:
    """Raise where forward mode is nested in forward mode: there torch drops the tangents of a custom function, without a word."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    kinds = "".join(level.key().name[0] for level in stack if level.key().name != "Vmap")
    if "JJ" in kinds:
        raise DomainError(
            "forward mode within forward mode has no second derivative here, as torch drops it: take one of the two in reverse "
            "mode, torch.func.jacfwd(torch.func.jacrev(f)), which is torch.func.hessian"
        )


def require_tensor(x: object, what: str) -> None:
    """Raise DtypeError unless x is a tensor."""
    if not isinstance(x, Tensor):
        array = ": convert it, e.g. with torch.tensor(a)" if type(x).__module__ == "numpy" else ""
        raise DtypeError(f"{what} must be a torch.Tensor, got {type(x).__name__}{array}")


def require_shape(x: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ShapeError unless x has the trailing dimensions `shape`."""
    require_tensor(x, what)
    expected = tuple(shape)
    if tuple(x.shape[x.dim() - len(expected) :]) != expected:
        trailing = ", ".join(map(str, expected))
        raise ShapeError(f"{what} must have shape (*batch, {trailing}), got {tuple(x.shape)}")
    require_floating(x, what)


def whole_sides(shape: Sequence[int], what: str) -> tuple[int, ...]:
    """The sides of a shape as ints, those of numpy too; raises ShapeError where one is no integer, as 2.5."""
    try:
        return tuple(map(operator.index, shape))
    except TypeError:
        raise ShapeError(f"{what} must be integers, got {shape!r}") from None


def require_floating(x: Tensor, what: str) -> None:
    """Raise DtypeError unless x is a dense floating point tensor."""
    if x.layout is not torch.strided:
        raise DtypeError(
            f"{what} must be a dense tensor, got one of layout {x.layout}: use x.to_dense(), or as_operator(x) of a sparse matrix"
        )
    if not x.is_floating_point():
        raise DtypeError(f"{what} must be a floating point tensor, got {x.dtype}: convert it, e.g. with x.float()")


def require_like(x: Tensor, reference: Tensor | None, what: str) -> None:
    """Raise DtypeError unless x has the dtype and device of `reference` (the first parameter of a module, if any)."""
    if reference is None or (x.dtype == reference.dtype and x.device == reference.device):
        return
    raise DtypeError(
        f"{what}: got {x.dtype} on {x.device}, expected {reference.dtype} on {reference.device}, as what it is combined with: "
        f"convert one of them (x.to(...) or module.to(...)); nothing is copied silently"
    )


def require_precision(dtype: object, what: str) -> None:
    """Raise DtypeError unless dtype is torch.float32 or torch.float64: products take half precision, factorisations do not."""
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"{what} is {dtype}, but this needs a real dtype, float32 or float64: convert it first")


def require_finite(x: Tensor, what: str, hint: str = "look for overflow or missing values upstream") -> None:
    """Raise DomainError where x holds nan or inf; a no-op where values may not be looked at."""
    if not eager(x) or math.isfinite((x.detach() if x.requires_grad else x).sum().item()):
        return
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise DomainError(f"{what} holds {bad} non-finite value(s) out of {x.numel()}: {hint}")


def require_domain(x: Tensor, inside: Tensor, domain: str, what: str, hint: str = "") -> None:
    """Raise DomainError where the mask `inside` is false; a no-op where values may not be looked at."""
    if not eager(x) or bool(inside.all()):
        return
    outside = x.detach()[~inside]
    raise DomainError(
        f"{what} must lie in {domain}, but {outside.numel()} of {x.numel()} value(s) do not, "
        f"the first being {outside.flatten()[0].item():.6g}{'; ' + hint if hint else ''}"
    )


def require_cutoff(rtol: float, relative: str) -> None:
    """Raise DomainError unless rtol is a finite number >= 0."""
    if not isinstance(rtol, Real) or not 0 <= rtol < math.inf:
        raise DomainError(f"rtol, {relative}, must be a finite number >= 0, got {rtol!r}")


def require_one_kind(what: str, mine: Tensor | None, other: str, theirs: Tensor | None) -> None:
    """Raise DtypeError where two parts name different dtypes or devices; None names neither."""
    if mine is not None and theirs is not None and (mine.dtype, mine.device) != (theirs.dtype, theirs.device):
        raise DtypeError(
            f"{what} is {mine.dtype} on {mine.device}, {other} {theirs.dtype} on {theirs.device}: convert one of them, "
            f"e.g. with .to(torch.float64)"
        )
