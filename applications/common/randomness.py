"""All randomness of a training as a pure function of (seed, step): nothing to store, nothing to lose on resume.

Row j of step s meets the same numbers whatever the number of processes, so that a run on one process and on many are the same
run. What is small is drawn for the whole global batch; `Noise` is drawn in blocks of rows, by each process those of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from induced.errors import ShapeError

_DRAWS: Final = 0
_ORDER: Final = 1
_NOISE: Final = 2
BLOCK: Final = 32
"""Rows of a global batch whose noise one generator draws, at least."""


@final
@dataclass(frozen=True)
class Noise:
    """Random numbers that a step asks for by their shape (m, ...): float32, normal or uniform in [0, 1).

    m divides the rows n of the step: n / m rows in a row have one row of noise.
    """

    shape: tuple[int, ...]
    normal: bool = True

    def __len__(self) -> int:
        return self.shape[0]


Draws = dict[str, Tensor]
Asked = Mapping[str, Tensor | Noise]
"""What a step asks for: tensors that are drawn already, or noise."""


def drawn(asked: Sequence[Asked], n: int, seed: int, step: int, part: range | None = None) -> list[Draws]:
    """All random numbers of a step, for some of its rows.

    Arguments:
        asked: Tensors and noise by name, whose first dimensions divide n.
        n: Rows of the step.
        seed: Seed of the run.
        step: Steps done before.
        part: The rows; all by default.

    Law:
        `drawn([{"x": noise}], n, seed, step, part)[0]["x"]` is `rows_of(whole, part, n)` of what it gives for all rows
        (applications/test_randomness.py)
    """
    part = part or range(n)
    noises = [value for named in asked for value in named.values() if isinstance(value, Noise)]
    block = math.lcm(BLOCK, *(n // len(noise) for noise in noises))
    begin, end = part.start // block * block, min(-(-part.stop // block) * block, n)
    filled = [torch.empty((end - begin) * len(noise) // n, *noise.shape[1:]) for noise in noises]
    for start in range(begin, end, block):
        generator = _generator(seed, _NOISE, step * -(-n // block) + start // block)
        for noise, whole in zip(noises, filled, strict=True):
            each = n // len(noise)
            piece = whole[(start - begin) // each : (start - begin + block) // each]
            piece.normal_(generator=generator) if noise.normal else piece.uniform_(generator=generator)
    inside, values = range(part.start - begin, part.stop - begin), iter(filled)
    return [
        {
            name: rows_of(next(values), inside, end - begin) if isinstance(value, Noise) else rows_of(value, part, n)
            for name, value in named.items()
        }
        for named in asked
    ]


def require_share(n: int, share: int, name: str) -> None:
    """Refuse a batch, or a part of one, that would show other rows of the whole than the first of each `share`.

    Raises:
        ShapeError: `share` does not divide n.
    """
    if n % share:
        raise ShapeError(
            f"a process' part of the batch, here {n} rows, must be a multiple of {name}={share}: "
            "else several processes would not pair the rows that one would"
        )


def rows_of(value: Tensor, part: range, n: int) -> Tensor:
    """What belongs to the rows `part` of n: of a tensor with fewer rows, n / m rows in a row have one of its m in common.

    Example:
        >>> rows_of(torch.tensor([0.1, 0.2]), range(4, 8), 8), rows_of(torch.tensor([0.1, 0.2]), range(2, 6), 8)
        (tensor([0.2000]), tensor([0.1000, 0.2000]))
    """
    each = n // len(value)
    common = math.gcd(each, part.start, part.stop)
    if common < each:
        value = value.repeat_interleave(each // common, 0)
    return value[part.start // common : part.stop // common]


def step_generator(seed: int, step: int) -> torch.Generator:
    """Make the generator of one step's draws, on the CPU whatever the training device.

    Arguments:
        seed: Seed of the run, not negative.
        step: Steps done before.

    Returns:
        A fresh generator; two steps of a run never share a state.
    """
    return _generator(seed, _DRAWS, step)


def batch_indices(size: int, batch: int, seed: int, step: int) -> Tensor:
    """Choose the images of one step: successive pieces of one shuffle after another, so that none is ever left out.

    A batch that reaches the end of a shuffle goes on with the next one.

    Arguments:
        size: Images in the data set, at least 1.
        batch: Images in a global batch; it may exceed `size`.
        seed: Seed of the run.
        step: Steps done before.

    Returns:
        int64, `(batch,)`.
    """
    position, end = step * batch, (step + 1) * batch
    pieces = []
    while position < end:
        epoch, start = divmod(position, size)
        piece = _shuffle(size, seed, epoch)[start : start + end - position]
        pieces.append(piece)
        position += len(piece)
    return torch.cat(pieces)


@lru_cache(maxsize=2)
def _shuffle(size: int, seed: int, epoch: int) -> Tensor:
    """Permute 0..size-1 for one epoch; kept, since every step of an epoch asks for it."""
    return torch.randperm(size, generator=_generator(seed, _ORDER, epoch))


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    """Make the generator of one index of one stream of random numbers.

    torch's CPU generator uses the low 32 bits of its seed alone. Hashing (seed, stream) and adding the index keeps the
    indices of a stream apart from each other for certain; hashing all three would let some collide.
    """
    return torch.Generator().manual_seed((_hashed(seed, stream) + index) % 2**32)


@lru_cache
def _hashed(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
