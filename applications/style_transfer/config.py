"""Every option of style transfer, as typed dataclasses; `Config()` is a working default."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from applications.common.settings import at_least
from applications.common.training import TrainingConfig
from applications.style_transfer.teacher import STYLES
from induced.errors import DomainError

IDENTITY = "identity"
"""The trained style that leaves a picture as it is: strength is measured from it."""


@dataclass(frozen=True)
class ModelConfig:
    """The two shared charts, and the cores of the styles."""

    styles: tuple[str, ...] = STYLES
    """Styles that a teacher is distilled for."""
    added: tuple[str, ...] = ()
    """Styles whose cores were fitted afterwards, charts frozen."""
    squeezes: int = 2
    """Times that a chart halves the sides, four times the channels each."""
    blocks: int = 4
    """Blocks of a chart: a coupling of either half and a mixing of the channels."""
    width: int = 64
    """Hidden channels of the conditioners."""
    window: int = 4
    """Entries to each side over which the first conditioner of a block normalizes its features; 0: none does."""
    max_log_scale: float = 0.5
    """Largest log-scale of a coupling: lower is better conditioned."""
    kernel: int = 5
    """Side of a core's kernel, in entries after the squeezes."""
    groups: int = 1
    """Groups of channels that a core mixes; 1: all with all, 3 * 4^squeezes: none."""
    features: int = 8
    """Numbers that the hypernetwork makes of a style's index; kernels are affine in them."""
    padding: Literal["circular", "zeros", "reflect", "replicate"] = "circular"
    """How a core sees beyond the border. Only circular ones have pseudoinverses and singular values at any size."""

    def __post_init__(self) -> None:
        """Refuse a model that has no meaning."""
        names = (IDENTITY, *self.styles, *self.added)
        if len(set(names)) < len(names) or not self.styles:
            raise DomainError(f"at least one style is trained, all have names of their own and none is {IDENTITY!r}; got {names}")
        at_least(1, self, "squeezes", "blocks", "width", "kernel", "groups", "features")
        at_least(0, self, "window")
        if self.channels % self.groups:
            raise DomainError(f"{self.channels} channels do not divide into {self.groups} groups")

    @property
    def names(self) -> tuple[str, ...]:
        """All styles, the identity first."""
        return (IDENTITY, *self.styles, *self.added)

    @property
    def stride(self) -> int:
        """Pixels that an entry of the coordinates is a step of."""
        return int(2**self.squeezes)

    @property
    def channels(self) -> int:
        """Channels of the coordinates."""
        return int(3 * 4**self.squeezes)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses; 0 leaves a loss out."""

    pixels: float = 1.0
    """|f_s(x) - T_s(x)|^2, a mean over pixels."""
    perceptual: float = 0.0
    """ST-LPIPS of f_s(x) and T_s(x) beside the error in pixels; where it has a weight, those of its own network are needed in
    the data folder."""
    patch: int = 128
    """Side of the square of each crop that a step sees: a multiple of 2^squeezes."""
    margin: int = 16
    """Pixels along the border of the square that the loss leaves out: there the student lacks what the teacher saw."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        at_least(0, self, "pixels", "perceptual", "margin")
        if self.patch <= 2 * self.margin:
            raise DomainError(f"a margin of {self.margin} pixels leaves nothing of a square of {self.patch}")


@dataclass(frozen=True)
class Config:
    """Styles of pictures as linear operators, each learned from a feed-forward network."""

    photographs: str = "embedded"
    """Photographs to train on: those of scikit-image, scikit-learn and matplotlib, or a folder."""
    skip_bad: bool = False
    """Leave out photographs of a folder that cannot be decoded; else they are all named, and nothing is trained."""
    crops: int = 1000
    """Random crops of them, each stylised once by every teacher."""
    side: int = 256
    """Side of a crop."""
    cache_gb: float = 4.0
    """Most gigabytes that the crops and the teachers' pictures take on disk."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=10000, batch=8, learning_rate=1e-3, sample_every=1000)
    )

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.crops < 1 or self.side < self.objective.patch or self.objective.patch % self.model.stride:
            raise DomainError(
                f"at least one crop, with a side of at least the patch, which is a multiple of {self.model.stride}: got "
                f"crops={self.crops}, side={self.side}, patch={self.objective.patch}"
            )


def settings(config: Config) -> dict[str, Any]:
    """What a run folder records beside the settings of training."""
    crops = {"photographs": config.photographs, "crops": config.crops, "side": config.side}
    return {"application": "style_transfer", "model": asdict(config.model), "objective": asdict(config.objective), "pairs": crops}
