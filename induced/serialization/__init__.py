"""Models on disk: config.json and model.safetensors, what is shared stored once, nothing pickled."""

import induced.bijections.interpolating
import induced.propagators
import induced.subspaces  # noqa: F401  (with those below it: every kind of the library is registered)
from induced._registry import register
from induced.serialization.reading import load, notes
from induced.serialization.writing import save

__all__ = ["load", "notes", "register", "save"]
