"""Features of images for Frechet distances: SqueezeNet 1.1 from local weights, and any net run over a whole set."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.data import to_unit
from applications.common.data.npz import read_npz
from applications.common.places import Folder, data_folder
from induced.errors import DataError, DtypeError, ShapeError

SQUEEZENET: Final = ("fid", "squeezenet1_1_onnxzoo.npz")
MIN_SIDE: Final = 128
"""Images with a shorter side are enlarged to it before they enter SqueezeNet, which was trained at 224."""

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


def find_weights(place: tuple[str, str], data_dir: Folder | None = None) -> Path:
    """Find a file of weights, `<data_dir>/<folder>/<name>` or `<data_dir>/<name>`; nothing is ever downloaded.

    Arguments:
        place: Folder and name of the file.
        data_dir: Where to look; beats the environment variable `INDUCED_DATA`.

    Returns:
        The file.

    Raises:
        DataError: there is no such file, or no folder was given.
    """
    folder = data_folder(data_dir, f"the weights {'/'.join(place)} are needed")
    candidates = (Path(folder, *place), Path(folder, place[1]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"found no weights at {' or '.join(map(str, candidates))}; put them there, nothing is downloaded")


def load_weights(net: nn.Module, path: Path, named: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict) -> None:
    """Read a file of weights into a net that must take every one of them, then freeze it in evaluation mode.

    Arguments:
        net: The net.
        path: The file: .npz, .safetensors, or what torch wrote. Nothing in it is run.
        named: The names that the net has for them, from those of the file.

    Raises:
        DataError: the file is missing or damaged; a name is missing or unknown, or a shape differs.
    """
    try:
        if path.suffix == ".npz":
            weights = {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
        else:
            weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        weights = named(dict(weights))
    except (OSError, EOFError, RuntimeError, TypeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: cannot be read as weights of {type(net).__name__} ({error})") from error
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{path}: does not hold the weights of {type(net).__name__} ({error})") from error
    net.eval().requires_grad_(False)


def as_rgb(images: Tensor, weights: Tensor) -> Tensor:
    """Check images in [-1, 1) that a net is to see, and repeat a grey channel three times.

    Arguments:
        images: `(N, 1, H, W)` or `(N, 3, H, W)`.
        weights: Any tensor of the net, whose dtype the images must have.

    Returns:
        `(N, 3, H, W)`.

    Raises:
        DtypeError: of another dtype.
        ShapeError: not of these shapes.
    """
    if images.dtype != weights.dtype:
        raise DtypeError(f"the net is of {weights.dtype} and got images of {images.dtype}; to_unit makes uint8 images float")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"expected grey or RGB images (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}")
    return images.expand(-1, 3, -1, -1)


def enlarged(images: Tensor, side: int) -> Tensor:
    """Enlarge images bilinearly, in proportion, so that the shorter side is at least `side`; larger ones stay."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter >= side:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


class _Fire(nn.Module):
    """Squeeze to few channels, then widen by 1x1 and 3x3 convolutions side by side."""

    def __init__(self, channels: int, squeezed: int, widened: int) -> None:
        """Name the three convolutions as the weights do."""
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, widened, 1)
        self.expand3x3 = nn.Conv2d(squeezed, widened, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels become twice `widened`."""
        x = self.squeeze(x).relu()
        return torch.cat((self.expand1x1(x), self.expand3x3(x)), 1).relu()


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al. 2016) trained on ImageNet: 512 features, and the 1,000 class scores.

    Frechet distances in these features have their own scale: they are not comparable with Inception's FID.

    Arguments:
        weights: Path of the npz file, its keys as torchvision's.

    Raises:
        DataError: the file cannot be read or holds other weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path) -> None:
        """Build the layers and fill them."""
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()),
            *(_Fire(64, 16, 64), _Fire(128, 16, 64), pool()),
            *(_Fire(128, 32, 128), _Fire(256, 32, 128), pool()),
            *(_Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256)),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        load_weights(self, weights)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images in [-1, 1) to the spatial mean of the last convolution's output.

        Arguments:
            images: Floating point, `(N, 1, H, W)` or `(N, 3, H, W)`; short sides are enlarged to `MIN_SIDE`.

        Returns:
            `(N, 512)`.
        """
        return self._maps(images).mean((2, 3))

    def scores(self, images: Tensor) -> Tensor:
        """Map images in [-1, 1) to ImageNet's class scores, `(N, 1000)`."""
        scores: Tensor = self.classifier(self._maps(images))
        return scores

    def _maps(self, images: Tensor) -> Tensor:
        """Run the convolutions on normalised images."""
        pixels = (enlarged(as_rgb(images, self.mean), MIN_SIDE) + 1) / 2
        maps: Tensor = self.features((pixels - self.mean) / self.std)
        return maps


def squeezenet(data_dir: Folder | None = None) -> SqueezeNet:
    """Load SqueezeNet 1.1 from `fid/` in the data folder.

    Arguments:
        data_dir: Folder of the files; beats the environment variable `INDUCED_DATA`.

    Returns:
        The frozen net.

    Raises:
        DataError: its weights are missing or damaged.
    """
    return SqueezeNet(find_weights(SQUEEZENET, data_dir))


@torch.no_grad()
def extract(
    net: Callable[[Tensor], Tensor], images: Tensor, batch: int = 100, device: torch.device | str | None = None
) -> Tensor:
    """Run a net over a whole set, a batch at a time; the last, shorter batch counts.

    Arguments:
        net: Maps images in [-1, 1) to features, each image on its own: a net, or a method of one.
        images: `(N, C, H, W)`: uint8, which `to_unit` maps to the middle of its bins, or floating point in [-1, 1).
        batch: Images at a time; the result does not depend on it beyond rounding.
        device: Where the net lies, to which each batch is moved; where the images lie if None.

    Returns:
        float64 on the CPU, `(N, ...)`.

    Raises:
        ShapeError: there are no images.
    """
    if len(images) == 0:
        raise ShapeError(f"there is no image to take features of, got the shape {tuple(images.shape)}")
    parts = []
    for part in torch.split(images, batch):
        unit = to_unit(part) if part.dtype == torch.uint8 else part
        parts.append(net(unit.to(device)).to("cpu", torch.float64))
    return torch.cat(parts)
