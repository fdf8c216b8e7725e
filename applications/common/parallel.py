"""One step of training over pieces of a batch and over processes: how gradients add up, and where weights live."""

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, distributed, nn

from applications.common.devices import pick
from applications.common.randomness import rows_of
from induced.errors import DomainError, ShapeError

Sharded = Callable[[Accelerator, nn.Module, torch.optim.Optimizer], nn.Module]

_SHARDS = (
    "whose checkpoints are not those of a run folder; launch without it, and give --shard to share out the optimiser's state"
)
_OFF = ("", "0", "false", "no")
_REFUSED = {
    **{f"USE_{name}": (name, _OFF, _SHARDS) for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")},
    "GRADIENT_ACCUMULATION_STEPS": (
        "gradient accumulation",
        ("", "1"),
        "which divides the gradients, while each batch is a step here; unset it, and give --micro-batch to save memory",
    ),
    "DYNAMO_BACKEND": ("a compiled model", _OFF, "which no run folder would record; unset it"),
    "MIXED_PRECISION": ("mixed precision", _OFF, "which no run folder would record; unset it, and give --precision bf16"),
    "TORCH_DEVICE": ("a device", ("",), "which every process would take; unset it, and give --device"),
    "USE_CPU": ("the CPU", _OFF, "where there is an accelerator; unset it, or give --device cpu"),
}
"""Variables by which accelerate changes a training whatever the program says: what they ask for, when not, and what is wrong."""


def accelerator_for(device: str) -> Accelerator:
    """Join the processes that the launcher started, on the device that `pick` gives to each.

    Raises:
        DomainError: as `pick`, or several processes are given one numbered device; the environment, as a launcher or an earlier
            shell left it, asks for what a run folder would not record: to shard, to accumulate gradients, another precision.
    """
    chosen = pick(device)
    for suffix, (what, without, problem) in _REFUSED.items():
        value = os.environ.get(name := f"ACCELERATE_{suffix}", "")
        if value.lower() not in without and (suffix, chosen.type) != ("USE_CPU", "cpu"):
            raise DomainError(f"the environment asks for {what} ({name}={value}), {problem}")
    # Without an accelerator accelerate must be told: else several processes would each train alone, in one folder.
    state = PartialState(cpu=chosen.type == "cpu")
    if state.num_processes == 1:
        state.device = chosen
    elif ":" in device:
        raise DomainError(f"{state.num_processes} processes take one accelerator each, by their ranks; got {device!r} for all")
    return Accelerator(cpu=chosen.type == "cpu", mixed_precision="no")


def accumulate(
    accelerator: Accelerator,
    wrapped: nn.Module,
    batch: Mapping[str, Tensor],
    draws: Mapping[str, Tensor],
    *,
    most: int,
    bf16: bool,
) -> dict[str, Tensor]:
    """Add the gradient of the mean loss of one process' part of a batch, `most` rows at a time.

    The loss of a piece counts as much as its share of the rows. Processes exchange gradients with the last piece only,
    but with each one where they are sharded: to wait would take whole gradients on every process.

    Arguments:
        accelerator: What joins the processes.
        wrapped: The objective, as `distribute` returns it.
        batch: The part, named tensors `(n, ...)`.
        draws: Its randomness.
        most: Rows at a time; 0: all.
        bf16: Autocast to bfloat16.

    Returns:
        The losses of the part, float32 scalars without gradient.

    Raises:
        ShapeError: the objective's outputs are no scalars, or "loss" is not among them.

    Law:
        The gradient is that of the whole part whatever `most` (applications/test_distributed.py)
    """
    rows = len(next(iter(batch.values())))
    size = most or rows
    totals: dict[str, Tensor] = {}
    for start in range(0, rows, size):
        piece, last = range(rows)[start : start + size], start + size >= rows
        share = len(piece) / rows
        with nullcontext() if last else accelerator.no_sync(wrapped):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                outputs = wrapped(*({name: rows_of(v, piece, rows) for name, v in named.items()} for named in (batch, draws)))
            accelerator.backward(share * _loss(outputs))
        for name, value in outputs.items():
            totals[name] = totals.get(name, 0) + share * value.detach().float()
    return totals


def distribute(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    shard: bool,
    loss: Callable[[], Tensor] | None = None,
) -> nn.Module:
    """Wrap an objective for several processes, its weights and buffers made those of the first one.

    Arguments:
        accelerator: What joins the processes.
        objective: What is minimised, on its device; sharded in place if so.
        optimizer: Over its trainable parameters, in their order; it goes on over their shards.
        shard: Keep 1/n of the optimiser's state and of the gradients on each of n processes (FSDP2), rather than all (DDP).
        loss: A loss, of a few rows: DDP would wait for gradients of weights that it does not depend on.

    Returns:
        What to call in place of the objective.
    """
    if not (shard and distributed.is_initialized()):
        unreached = list[nn.Parameter]()
        if loss is not None and accelerator.num_processes > 1:
            trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(loss(), trained, allow_unused=True)
            unreached = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is None]
        for parameter in unreached:
            parameter.requires_grad_(False)
        prepared: nn.Module = accelerator.prepare(objective)
        for parameter in unreached:
            parameter.requires_grad_(True)
        return prepared
    sharded: Sharded = import_module("applications.common.shards").sharded
    return sharded(accelerator, objective, optimizer)


def later(values: Tensor) -> Callable[[], list[float]]:
    """Send numbers to the host; the function that it gives waits until they are there, but for nothing computed after them."""
    if values.device.type == "cpu":
        return values.tolist
    sent, arrived = values.to("cpu", non_blocking=True), torch.Event(values.device)
    arrived.record()

    def numbers() -> list[float]:
        arrived.synchronize()
        return sent.tolist()

    return numbers


def gather_weights(wrapped: nn.Module) -> None:
    """Make all weights whole on every process until the next backward pass; its forward pass would do so anyway."""
    if callable(unshard := getattr(wrapped, "unshard", None)):
        unshard()


def whole(state: Any, seen: dict[int, Tensor] | None = None) -> Any:
    """Replace the shards in a state dict by whole tensors, one under several names by one; every process must call it."""
    seen = {} if seen is None else seen
    if isinstance(state, dict):
        # A state read from a file has its tensors in another order on each process; they must exchange in one order.
        gathered = {key: whole(state[key], seen) for key in sorted(state, key=str)}
        return {key: gathered[key] for key in state}
    if not hasattr(state, "full_tensor"):
        return state
    return seen.setdefault(id(state), state.full_tensor())


def _loss(outputs: Mapping[str, Tensor]) -> Tensor:
    """Take the loss out of an objective's outputs, which must be scalars."""
    if "loss" not in outputs or any(value.ndim for value in outputs.values()):
        shapes = {name: tuple(value.shape) for name, value in outputs.items()}
        raise ShapeError(f"an objective returns scalars, one of them called 'loss'; got the shapes {shapes}")
    return outputs["loss"]
