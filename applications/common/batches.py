"""The batches of a training: made on the host, a step ahead where a device computes, and moved there by one copy."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from applications.common.data import Source
from applications.common.data.source import Batch
from applications.common.randomness import Asked, Draws, batch_indices, drawn, step_generator
from induced.errors import ShapeError

CPU = torch.device("cpu")
_ALIGNED = 64
"""Bytes; a tensor's place in a copy begins at a multiple."""


def batches(
    draw: Callable[[int, torch.Generator], Asked],
    data: Source,
    n: int,
    seed: int,
    steps: range,
    part: slice = slice(None),
    device: torch.device = CPU,
) -> Generator[tuple[Batch, Draws]]:
    """Rows and randomness of each step, those of one process, on its device.

    For a device a thread makes those of the next step while it computes. The bits depend neither on the device nor on how many
    processes share the rows.

    Arguments:
        draw: What the objective asks for, `Objective.draw`.
        data: The source; one that lies on the device gathers and randomises its rows there.
        n: Rows of a step, over all processes.
        seed: Seed of the run.
        steps: The steps, the first of a run being 0.
        part: Rows of this process.
        device: Where they go.

    Raises:
        ShapeError: draws whose first dimension does not divide n, or rows other than those asked for.
    """
    resident = not all(tensor.is_cpu for tensor in data.stored().values())

    def made(step: int) -> Callable[[], list[Draws]]:
        generator = step_generator(seed, step)
        asked = [_asked(who.__qualname__, who(n, generator), n) for who in (data.draw, draw)]
        of_data, draws = drawn(asked, n, seed, step, range(n)[part])
        chosen = batch_indices(len(data), n, seed, step)[part]
        return packed([{"": chosen}, of_data, draws] if resident else [_rows(data, chosen, of_data), draws], device)

    def there(moved: list[Draws]) -> tuple[Batch, Draws]:
        return (_rows(data, moved[0][""], moved[1]) if resident else moved[0]), moved[-1]

    if device.type == "cpu":
        yield from (there(made(step)()) for step in steps)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(made, steps.start)
        for step in steps:
            ready = coming.result()
            if step + 1 in steps:
                coming = thread.submit(made, step + 1)
            yield there(ready())


def packed(named: Sequence[Mapping[str, Tensor]], device: torch.device) -> Callable[[], list[Draws]]:
    """Lay tensors out side by side; the function that it gives takes them to the device, in one copy that nothing waits for."""
    if device.type == "cpu":
        return lambda: [dict(tensors) for tensors in named]
    values = [value for tensors in named for value in tensors.values()]
    *places, size = accumulate((-(-value.nbytes // _ALIGNED) * _ALIGNED for value in values), initial=0)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def of(bytes: Tensor) -> list[Tensor]:
        pieces = (bytes[place : place + value.nbytes] for place, value in zip(places, values, strict=True))
        return [piece.view(value.dtype).view(value.shape) for piece, value in zip(pieces, values, strict=True)]

    for place, value in zip(of(buffer), values, strict=True):
        place.copy_(value)

    def moved() -> list[Draws]:
        there = iter(of(buffer.to(device, non_blocking=True)))
        return [{name: next(there) for name in tensors} for tensors in named]

    return moved


def _asked(who: str, asked: Asked, n: int) -> Asked:
    """Refuse draws that belong to no rows."""
    for name, value in asked.items():
        if not value.shape or not len(value) or n % len(value):
            raise ShapeError(
                f"{who}({n}, ...) gave {name!r} of shape {tuple(value.shape)}; its first dimension must be the global batch, or "
                "divide it"
            )
    return asked


def _rows(data: Source, chosen: Tensor, of_data: Mapping[str, Tensor]) -> Batch:
    """The rows of a source, which must be as many as asked for."""
    batch = data.randomised(chosen, of_data)
    short = {name: tuple(value.shape) for name, value in batch.items() if value.shape[:1] != chosen.shape}
    if short or not batch:
        raise ShapeError(f"{type(data).__name__} gave {short or 'nothing'} for {len(chosen)} rows; expected as many of each")
    return batch
