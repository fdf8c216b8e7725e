"""A check leaves the object as it found it."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from induced._numerics import AUTOCAST


class _State(NamedTuple):
    module: nn.Module
    training: bool
    held: list[tuple[dict[str, Any], dict[str, Any]]]
    """The dictionaries of its parameters, buffers and submodules, each with a copy of it."""
    parameters: list["_Parameter"]


class _Parameter(NamedTuple):
    parameter: nn.Parameter
    values: Tensor
    requires_grad: bool
    grad: Tensor | None
    grad_values: Tensor | None


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Give the modules back bit for bit as they were: parameters, buffers, modes of all submodules, gradients, random states.

    Inside, the modules have copies of their buffers: an update in place would spoil a graph that still needs them, even if their
    bits were put back. The random states are the global ones of torch, numpy and Python. Around it there may be an inference mode
    or an autocast: inside there is neither, for laws speak of gradients, and of the precision of the samples.

    Law:
        `state_dict()`, `training` of every submodule, `.grad` and `torch.get_rng_state()` are equal before and after
        (counterexamples/test_side_effects.py)
    """
    # equal spaces may be two modules
    states = [_state(part) for part in {id(part): part for module in modules for part in module.modules()}.values()]
    restore, copies = _generators(), dict[int, Tensor]()
    for state in states:
        for name, buffer in state.module._buffers.items():
            if buffer is not None:  # a buffer that two modules share stays one
                state.module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        # leaving inference mode asks for gradients, which who is in none may have turned off
        leave = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with leave, ExitStack() as stack:
            for kind in filter(torch.is_autocast_enabled, AUTOCAST):
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        for state in states:
            _restore(state)
        for put_back in restore:
            put_back()


def _state(module: nn.Module) -> _State:
    held = [(now, dict(now)) for now in (module._parameters, module._buffers, module._modules)]
    parameters = [
        _Parameter(p, p.detach().clone(), p.requires_grad, p.grad, None if p.grad is None else p.grad.detach().clone())
        for p in module._parameters.values()
        if p is not None
    ]
    return _State(module, module.training, held, parameters)


def _restore(state: _State) -> None:
    state.module.training = state.training
    for now, before in state.held:
        now.clear()
        now.update(before)
    for p in state.parameters:
        _put_back(p.parameter, p.values)
        p.parameter.requires_grad = p.requires_grad
        p.parameter.grad = p.grad
        if p.grad is not None and p.grad_values is not None:
            _put_back(p.grad, p.grad_values)


def _put_back(now: Tensor, before: Tensor) -> None:
    if not same_bits(now.detach(), before):
        if now.shape == before.shape and now.dtype == before.dtype:
            now.data.copy_(before)
        else:
            now.data = before


def _generators() -> list[Callable[[], object]]:
    cpu, numbers, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    restore: list[Callable[[], object]] = [
        lambda: torch.set_rng_state(cpu),
        lambda: np.random.set_state(numbers),
        lambda: random.setstate(python),
    ]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
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
