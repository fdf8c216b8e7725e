"""All randomness of a training as a pure function of (seed, step): nothing to store, nothing to lose on resume.

Every process draws the randomness of the whole global batch and takes its own slice. So sample j of step s meets the
same noise whatever the number of processes, and a run on one process and on many are the same run.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

_DRAWS: Final = 0
_ORDER: Final = 1


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
    base = int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
    return torch.Generator().manual_seed((base + index) % 2**32)
