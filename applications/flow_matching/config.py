"""Every option of flow matching, as typed dataclasses; `Config()` is a working default."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from applications.common.training import TrainingConfig
from induced.errors import CheckpointError, DomainError


@dataclass(frozen=True)
class ModelConfig:
    """The chart of both end points and the family of operators between them."""

    shape: tuple[int, int, int] = (1, 32, 32)
    """Shape (C, H, W) of a point."""
    blocks: int = 6
    """Blocks of the convolutional part of the chart: ActNorm, two affine couplings, 1x1 convolution."""
    widths: tuple[int, ...] = (32, 48, 96)
    """Hidden channels of its conditioners, one number a resolution."""
    dense_blocks: int = 4
    """Couplings between all coordinates, after the convolutional part."""
    dense_width: int = 128
    """Hidden units of their conditioners."""
    rank: int = 16
    """Rank of U_t V_t^T, and number of leading coordinates that carry the image."""
    floor: float | None = 0.03
    """Standard deviation of the other coordinates at the data end; None: the paper's family U_t V_t^T, whose spectrum is flat."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses; each loss is a mean over images and coordinates."""

    velocity: float = 1.0
    """Velocity in the induced space (eq. 13)."""
    reconstruction: float = 16.0
    """Reconstruction of the data end point from its noisy coordinates."""
    prior: float = 10.0
    """-log density of the leading coordinates of the data end, without a volume term: it keeps their variance near 1."""
    residual: float = 1.0
    """The same for the other coordinates, whose standard deviation is `floor`."""
    likelihood: float = 0.0
    """Negative log-likelihood of the data under the fixed density at the data end; an option."""
    noise_reconstruction: float = 0.1
    """Reconstruction of the noise end point from its noisy coordinates."""
    noise_likelihood: float = 1.0
    """Negative log-likelihood of the noise end under N(0, I): forbids collapse, and keeps g_0 volume preserving on average."""
    latent_noise: float = 0.2
    """Standard deviation of the noise added to coordinates before reconstruction, relative to theirs."""
    noise_share: int = 4
    """One in this many images is paired with a noise image."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for f in fields(self):
            if not getattr(self, f.name) >= (1 if f.name == "noise_share" else 0):
                raise DomainError(f"{f.name} must be at least {1 if f.name == 'noise_share' else 0}, got {getattr(self, f.name)}")


@dataclass(frozen=True)
class Config:
    """Flow matching on images."""

    data: Literal["mnist5k", "mnist"] = "mnist5k"
    """`mnist5k` is embedded; `mnist` needs the IDX files in --data-dir or $INDUCED_DATA."""
    leave_out: bool = True
    """Leave the 500 digits that mnist5k holds out (MNIST training images) out of `mnist` too: any model can be judged on them."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=2e-3, sample_every=500))


def settings(config: Config) -> dict[str, Any]:
    """What a run folder records beside the settings of training."""
    return {"application": "flow_matching", "model": asdict(config.model), "objective": asdict(config.objective)}


def model_config(record: dict[str, Any], path: Path) -> ModelConfig:
    """The model's settings out of a config.json.

    Raises:
        CheckpointError: the record is of another application, or its fields are not those of ModelConfig.
    """
    found, known = record.get("model"), {f.name for f in fields(ModelConfig)}
    if record.get("application") != "flow_matching" or not isinstance(found, dict) or set(found) != known:
        raise CheckpointError(
            f"{path}: not the settings of a flow-matching model; expected application 'flow_matching' and model settings "
            f"{', '.join(sorted(known))}, found application {record.get('application')!r} with "
            f"{sorted(found) if isinstance(found, dict) else found!r}"
        )
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return ModelConfig(**values)
