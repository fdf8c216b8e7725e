"""A check leaves the object as it found it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _State(NamedTuple):
    module: nn.Module
    training: bool
    tensors: dict[str, Tensor | None]
    buffers: dict[str, Tensor | None]
    gradients: dict[str, tuple[Tensor, Tensor] | None]


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Give the modules back bit for bit as they were: parameters, buffers, modes of all submodules, gradients, random states.

    Law:
        `state_dict()`, `training` of every submodule, `.grad` and `torch.get_rng_state()` are equal before and after
        (counterexamples/test_side_effects.py)
    """
    found = [_state(part) for part in {part: None for module in modules for part in module.modules()}]
    generators = _generators()
    try:
        yield
    finally:
        for state in found:
            _restore(state)
        for restore in generators:
            restore()


def _state(module: nn.Module) -> _State:
    own = {**module._parameters, **module._buffers}
    copies = {name: None if x is None else x.detach().clone() for name, x in own.items()}
    grads = {name: p.grad for name, p in module._parameters.items() if p is not None}
    gradients = {name: None if grad is None else (grad, grad.detach().clone()) for name, grad in grads.items()}
    return _State(module, module.training, copies, dict(module._buffers), gradients)


def _restore(state: _State) -> None:
    module = state.module
    module.training = state.training
    module._buffers.clear()
    module._buffers.update(state.buffers)
    for name, before in state.tensors.items():
        now = module._parameters.get(name, module._buffers.get(name))
        if before is not None and now is not None:
            _put_back(now, before)
    for name, gradient in state.gradients.items():
        if (parameter := module._parameters.get(name)) is not None:
            parameter.grad = None if gradient is None else gradient[0]
        if gradient is not None:
            _put_back(*gradient)


def _put_back(now: Tensor, before: Tensor) -> None:
    # a copy raises the version of a tensor that some graph may still need: only where bits have changed
    if not same_bits(now.detach(), before):
        with torch.no_grad():
            now.copy_(before)


def _generators() -> list[Callable[[], object]]:
    cpu = torch.get_rng_state()
    restore: list[Callable[[], object]] = [lambda: torch.set_rng_state(cpu)]
    if torch.cuda.is_available():
        gpu = torch.cuda.get_rng_state_all()
        restore.append(lambda: torch.cuda.set_rng_state_all(gpu))
    return restore


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal bit for bit: dtype, shape, signs of zeros, nan."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool((different_bits(x, y) == 0).all())


def different_bits(x: Tensor, y: Tensor) -> Tensor:
    """1 where the bits of two tensors of one dtype and shape differ, 0 elsewhere."""
    if x.dtype.is_complex:
        x, y = torch.view_as_real(x), torch.view_as_real(y)
    if x.dtype.is_floating_point:
        bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        x, y = x.contiguous().view(bits), y.contiguous().view(bits)
    return (x != y).int()
