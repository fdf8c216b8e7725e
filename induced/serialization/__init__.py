"""Models on disk: config.json and model.safetensors, what is shared stored once, nothing pickled."""

import induced.serialization.classes  # noqa: F401  (registers the classes of the library)
from induced.serialization.files import load, save
from induced.serialization.registry import register

__all__ = ["load", "register", "save"]
