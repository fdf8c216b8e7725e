"""A module that is saved and loaded, and has to be the same."""

from pathlib import Path
from typing import Any

import torch

from induced.serialization import load, save


def again(module: Any, folder: Path) -> Any:
    """The module, saved and loaded; torch's generator is left alone by it."""
    state = torch.get_rng_state()
    loaded = load(save(module, folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: (type(p), p.requires_grad, p.dtype) for n, p in module.named_parameters()} == {
        n: (type(p), p.requires_grad, p.dtype) for n, p in loaded.named_parameters()
    }
    mine, theirs = module.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(mine[key].dtype == theirs[key].dtype and torch.equal(mine[key], theirs[key]) for key in mine)
    return loaded
