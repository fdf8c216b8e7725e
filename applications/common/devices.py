"""Where commands and trainings compute: on the CPU, or on an accelerator that has float64."""

import os
from functools import cache

import torch

from induced.errors import DomainError


def pick(name: str = "auto") -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1", "mps", ...; "auto": the accelerator if it has float64, else the CPU.

    Without a number it is the current one, or that of the rank which a launcher gives to this process.

    Raises:
        DomainError: there is no such device here, or it has no float64.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = 0 if found is None else torch.accelerator.device_count()
    if found is None or not count or name == "cpu":
        kind, numbered = "cpu", list[str]()
    else:
        kind, numbered = found.type, [f"{found.type}:{index}" for index in range(count)]
    if name not in ("auto", "cpu", kind, *numbered):
        raise DomainError(f"there is no device {name!r} here, only {' and '.join(['cpu', *numbered])}")
    rank = os.environ.get("LOCAL_RANK")
    place = name if name in numbered else kind if rank is None or not numbered else numbered[int(rank) % count]
    try:
        return torch.zeros((), dtype=torch.float64, device=place).device
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        problem = f"{place} cannot hold float64, in which lattices, small matrices and constants lie ({reason})"
        if name != "auto":
            raise DomainError(f"{problem}: take the CPU, --device cpu") from error
    say(f"note: {problem}: the CPU is taken")
    return torch.device("cpu")


@cache
def say(note: str) -> None:
    """Print a note once."""
    print(note, flush=True)
