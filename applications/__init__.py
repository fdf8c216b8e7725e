"""Programs on the API of `induced`: each assembles library objects, trains them and looks at what came out."""

from importlib.util import find_spec

from induced.errors import MissingExtra

_PACKAGES = ("accelerate", "matplotlib", "mlxtend", "PIL", "platformdirs", "skimage", "sklearn", "tensorboard", "tqdm", "tyro")

if missing := [name for name in _PACKAGES if find_spec(name) is None]:
    raise MissingExtra(f"the applications need {', '.join(missing)}: install induced[apps]")
