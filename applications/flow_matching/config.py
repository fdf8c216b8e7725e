"""Every option of flow matching, as typed dataclasses; `Config()` is a working default."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

from applications.common.settings import at_least, at_most
from applications.common.training import LARGEST_BATCH, TrainingConfig
from induced.errors import DomainError


@dataclass(frozen=True)
class ModelConfig:
    """The chart of both end points and the family of operators between them."""

    shape: tuple[int, ...] = (1, 32, 32)
    """Shape of a point: (C, H, W) of an image, (n,) of a vector."""
    chart: Literal["glow", "linear", "identity", "spline", "real_nvp"] = "glow"
    """The chart; with the linear one and the identity, samples are Gaussian images. The last two are for vectors: columns
    standardised, then `density_blocks` couplings of that kind, of width `density_width`."""
    constant: tuple[int, ...] = ()
    """Of vectors: columns that never vary, of which every sample has the value; training finds them in the table."""
    noise_space: Literal["euclidean", "labelled", "shared"] = "euclidean"
    """Space of the noise: R^n, or that of the chart: told by a label which end it serves, as in the paper, or not told."""
    prediction: Literal["velocity", "end point"] = "velocity"
    """What A_t z_t stands for; "end point" is the other choice of the paper: B is of rank r, and `rest_std` must be None."""
    blocks: int = 3
    """Blocks of the convolutional part of the chart: ActNorm, two affine couplings, 1x1 convolution."""
    widths: tuple[int, ...] = (32, 48, 96)
    """Hidden channels of its conditioners, one number a resolution."""
    conditioner: Literal["conv", "unet"] = "conv"
    """Networks of its couplings: three convolutions, or U-Nets."""
    max_log_scale: float = 0.2
    """Bound of the log-scale of a coupling of the encoder. A large one lets it be so steep between images of the data and those
    that it draws that float32 cannot tell whether a law holds."""
    reversible: bool = False
    """Recompute activations by inversion in the backward pass: memory that depth does not cost, for about one more pass."""
    dense_blocks: int = 4
    """Couplings between all coordinates, after the convolutional part; 0: none."""
    dense_width: int = 192
    """Hidden units of their conditioners."""
    components: int = 400
    """At most so many Gaussians, shared out among the classes of the images: their mixture is fitted to the leading coordinates
    of all images when training ends, and a chart makes it N(0, I). 0: couplings in its place, trained in two stages; so where the
    noise space is not Euclidean."""
    floor: float = 0.2
    """Least standard deviation of each, in those of the coordinates; more draws with more variety, and less care."""
    tail: float = 0.02
    """Share of the weight of each that a second one about its mean has, 1.8 times as wide: it reaches codes between them, which
    would not come back from float32."""
    density_blocks: int = 8
    """Couplings that act on the leading coordinates alone and make their distribution Gaussian; 0: none, and no mixture."""
    density_width: int = 128
    """Hidden units of their conditioners."""
    family: Literal["low rank", "shared basis"] = "low rank"
    """Factors U_t V_t^T that turn with the time, or one trained basis for all times, Q K_t Q^T."""
    rank: int = 24
    """Rank of U_t V_t^T, and number of leading coordinates that carry the image."""
    rest_std: float | None = 0.03
    """Standard deviation of the other coordinates at the data end; None: the paper's family U_t V_t^T, whose spectrum is flat."""

    def __post_init__(self) -> None:
        """Refuse a family that has no meaning."""
        if self.prediction == "end point" and self.rest_std is not None:
            raise DomainError(f"a family that predicts the end point is of rank r: expected rest_std=None, got {self.rest_std}")
        at_least(0, self, "components")
        if not 0 < self.floor < math.inf:
            raise DomainError(f"floor is a finite number above 0, or a component could be a point; got {self.floor}")

    @property
    def vectors(self) -> bool:
        """Whether a point is a vector."""
        return len(self.shape) == 1

    def of_vectors(self, n: int, constant: tuple[int, ...]) -> "ModelConfig":
        """These settings for vectors (n,), all of whose varying columns lead; the chart is a spline unless it is `real_nvp`."""
        chart: Literal["spline", "real_nvp"] = "real_nvp" if self.chart == "real_nvp" else "spline"
        return replace(self, shape=(n,), constant=constant, rank=n - len(constant), chart=chart)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses, each a mean over images and coordinates or pixels; 0 leaves a loss out.

    The last three say how a loss is measured and what it sees.
    """

    velocity: float = 1.0
    """Velocity in the induced space (eqs. 10, 11, 13)."""
    end_point: float = 0.0
    """End point that the velocity leads to, in coordinates (docs/theory/flow_matching.md)."""
    end_point_image: float = 0.0
    """The same end point decoded, against the image: eq. 13 with the distance of pixels."""
    end_point_perceptual: float = 0.0
    """The same with a perceptual distance, as in the paper; `distance` says which."""
    reconstruction: float = 16.0
    """Reconstruction of the data end point from its noisy coordinates."""
    perceptual: float = 4.0
    """The same with the perceptual distance."""
    prior: float = 1.0
    """-log density of the leading coordinates of the data end, without a volume term: it keeps their variance near 1."""
    density: float = 10.0
    """Negative log-likelihood of the noisy leading coordinates; it trains the couplings that make them Gaussian."""
    residual: float = 1.0
    """The same for the other coordinates, whose standard deviation is `rest_std`."""
    likelihood: float = 0.0
    """Negative log-likelihood of the data under the fixed density at the data end (docs/theory/flow_matching.md)."""
    noise_reconstruction: float = 0.1
    """Reconstruction of the noise end point from its noisy coordinates."""
    noise_likelihood: float = 1.0
    """Negative log-likelihood of the noise end under N(0, I): forbids collapse, and keeps g_0 volume preserving on average."""
    distance: Literal["pyramid", "st-lpips", "auto"] = "pyramid"
    """The perceptual distance; "st-lpips" needs its weights in the data folder, "auto" takes it where they are."""
    latent_noise: float = 0.3
    """Standard deviation of the noise added to coordinates of images before reconstruction, relative to theirs."""
    noise_share: int = 4
    """One in this many images is paired with a noise image."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        at_least(1, self, "noise_share")
        at_least(0, self, *(f.name for f in fields(self) if f.name != "distance"))


@dataclass(frozen=True)
class Config:
    """Flow matching on images, or on the rows of a table."""

    data: str = "mnist5k"
    """Images: `mnist5k` is embedded; mnist, fashion-mnist, avatars64, celeba and folder need files in the folder --data-dir,
    else $INDUCED_DATA. celeba and folder take size and channels from --shape. Vectors: a file .csv, .npy or .npz, or the
    examples `two-moons` and `digit-scores`, which need no file; the chart is a spline, unless --chart says real_nvp."""
    columns: tuple[str, ...] = ()
    """Columns of a table to take; all if none."""
    leave_out: bool = True
    """Leave the 500 digits that mnist5k holds out (MNIST training images) out of `mnist` too: any model can be judged on them."""
    skip_bad: bool = False
    """Leave out pictures of celeba and folder that cannot be decoded; else they are all named, and nothing is trained."""
    latent_steps: int = 3000
    """Of couplings: steps of a second stage, which trains density and family alone at the coordinates of the finished encoder,
    or none if 0. Only where the noise space is Euclidean."""
    latent_batch: int = 512
    """Images a step in that stage."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=2e-3, sample_every=500))

    def __post_init__(self) -> None:
        """Refuse a second stage that cannot be meant."""
        at_least(0, self, "latent_steps")
        at_least(1, self, "latent_batch")
        at_most(LARGEST_BATCH, self, "latent_batch")


OF_VECTORS: Final = (
    *("shape", "chart", "constant", "reversible", "density_blocks", "density_width", "family", "rank"),
    *("velocity", "end_point", "density", "noise_share"),
)
"""Settings of the model and of its objective that mean something for rows of a table."""


def settings(config: Config) -> dict[str, Any]:
    """What a run folder records beside the settings of training."""
    return {"application": "flow_matching", "model": asdict(config.model), "objective": asdict(config.objective)}
