"""Every option of the idempotent generator, as typed dataclasses; `Config()` is a working default."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from applications.common.settings import at_least
from applications.common.training import TrainingConfig
from induced.errors import DomainError


@dataclass(frozen=True)
class ModelConfig:
    """The chart, and the projection of its coordinates."""

    shape: tuple[int, int, int] = (1, 32, 32)
    """Shape (C, H, W) of a point."""
    blocks: int = 6
    """Blocks of the chart: a random split of each 2 x 2 patch into two streams, an additive coupling of either, pixel shuffle."""
    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of a conditioner after each of its stride-2 convolutions; as many transposed ones lead back."""
    rank: int | None = 64
    """Rank of the projector, a fixed choice of coordinates; None: training chooses them, under the penalty `kept`."""
    basis: Literal["coordinates", "rotated"] = "rotated"
    """Basis whose first vectors span the range: that of the chart's coordinates, or one turned by trained reflections, which
    start at the principal components of the data and become part of the chart."""
    hardening: int = 0
    """Steps over which the projection turns from soft to hard: from keeping everything to dropping; 0: hard from the start."""
    exact: bool = True
    """Use the trained model on a lattice, idempotent bit for bit; else in the floating point that it was trained in."""
    bits: int = 12
    """The lattice has 2^bits steps in a unit; in float32 values then lie below 2^(24 - bits)."""
    activation_bits: int = 16
    """Activations of a conditioner on the lattice are multiples of 2^-activation_bits."""
    weight_bits: int = 16
    """Its weights are multiples of 2^-weight_bits."""

    def __post_init__(self) -> None:
        """Refuse a model that has no meaning."""
        C, H, W = self.shape
        if self.rank is not None and not 0 <= self.rank <= C * H * W:
            raise DomainError(f"a rank is None or lies in 0..{C * H * W}, the dimension for shape {self.shape}; got {self.rank}")
        if self.basis == "rotated" and not self.rank:
            raise DomainError(f"a rotated basis needs a rank of at least 1, got {self.rank}: --basis coordinates takes any")
        cell = 2 ** (len(self.widths) + 1)
        if not self.widths or self.blocks < 1 or H % cell or W % cell:
            raise DomainError(
                f"sides are halved once by the split and once by each of the conditioner's {len(self.widths)} widths: at least "
                f"one width, one block and sides divisible by {cell} are needed, got {self.blocks} blocks and sides {H}, {W}"
            )
        for name, least, most in (("bits", 1, 23), ("activation_bits", 1, 30), ("weight_bits", 1, 30)):
            if not least <= getattr(self, name) <= most:
                raise DomainError(f"{name} lies in {least}..{most}, got {getattr(self, name)}")
        at_least(0, self, "hardening")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses; 0 leaves a loss out."""

    reconstruction: float = 1.0
    """|f(x) - x|^2, a mean over images and pixels: the data are to be fixed points."""
    kept: float = 0.3
    """Share of the coordinates that the projection keeps, where training chooses them: the tightest subspace."""
    isometry: float = 1e-3
    """|J v|^2 / |v|^2 - 1 for the Jacobian J of the chart at an image and a random direction v."""
    isometry_every: int = 5
    """Steps of which one looks at it, with a quarter of its images and this many times the weight."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        at_least(1, self, "isometry_every")
        at_least(0, self, "reconstruction", "kept", "isometry")


@dataclass(frozen=True)
class Config:
    """A projector onto images of a kind, idempotent to the last bit."""

    data: Literal["mnist5k", "mnist", "fashion-mnist", "avatars64", "celeba", "folder"] = "mnist5k"
    """`mnist5k` is embedded; the others need files in --data-dir or $INDUCED_DATA. celeba and folder take size and channels
    from `model.shape`."""
    leave_out: bool = True
    """Leave the 500 digits that mnist5k holds out (MNIST training images) out of `mnist` too: any model can be judged on them."""
    skip_bad: bool = False
    """Leave out pictures of celeba and folder that cannot be decoded; else they are all named, and nothing is trained."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=4000, batch=64, learning_rate=2e-3, sample_every=500)
    )


def settings(config: Config) -> dict[str, Any]:
    """What a run folder records beside the settings of training."""
    return {"application": "idempotent", "model": asdict(config.model), "objective": asdict(config.objective)}
