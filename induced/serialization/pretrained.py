"""`save` and `load` as methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from induced._module import Module
from induced.errors import CheckpointError
from induced.serialization.layout import Folder
from induced.serialization.reading import load
from induced.serialization.writing import save


class Pretrained(Module):
    """`save` and `load` as methods."""

    def save_pretrained(
        self,
        folder: Folder,
        *,
        overwrite: bool = False,
        dtype: torch.dtype | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Path:
        """`induced.serialization.save`: config.json and model.safetensors, what is shared once."""
        return save(self, folder, overwrite=overwrite, dtype=dtype, notes=notes)

    @classmethod
    def from_pretrained(cls, folder: Folder) -> Self:
        """What `induced.load` gives, or, where that is the model of an application, its `operator()`.

        Raises:
            CheckpointError: the folder holds neither; or as `load`.
        """
        module = load(folder)
        operator = getattr(module, "operator", None)
        made = operator() if callable(operator) and not isinstance(module, cls) else module
        if not isinstance(made, cls):
            raise CheckpointError(
                f"{folder}: holds a {type(module).__name__}, not a {cls.__name__}; induced.load(folder) reads it"
            )
        return made
