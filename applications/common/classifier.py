"""A small classifier of digits that ships with the package: its features and scores judge generated digits.

Figures of different machines compare for it. It is made by

    INDUCED_DATA=... python -m experiments.train_classifier --data mnist --out applications/common/pretrained/digits
"""

import os
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.kinds import load_model
from induced.errors import DtypeError, ShapeError
from induced.serialization import register

PRETRAINED: Final = Path(__file__).parent / "pretrained" / "digits"
FEATURES: Final = 64

SIDE: Final = 32
CLASSES: Final = 10
BLACK: Final = -1 + 1 / 256
"""What `to_unit` makes of a pixel 0."""


class DigitClassifier(nn.Module):
    """A convolutional net of 89,914 weights: logits of ten digits, and the 64 features before them."""

    def __init__(self) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()

        def block(channels: int, widened: int, side: int, stride: int, *pool: nn.Module) -> nn.Sequential:
            convolution = nn.Conv2d(channels, widened, side, stride, side // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(widened), nn.ReLU(), *pool)

        self.body = nn.Sequential(
            block(1, 16, 5, 2),
            block(16, 32, 3, 1, nn.MaxPool2d(2)),
            block(32, FEATURES, 3, 1, nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(16 * FEATURES, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images in [-1, 1) to the logits of their class.

        Arguments:
            images: float32, `(N, 1, 32, 32)` or `(N, 1, 28, 28)`; the latter get a black border.

        Returns:
            `(N, 10)`.

        Raises:
            DtypeError: images are of another dtype than the weights.
            ShapeError: images have another shape.
        """
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Map images to the 64 features before the logits, none negative, `(N, 64)`."""
        if images.dtype != self.head.weight.dtype:
            raise DtypeError(
                f"the classifier is of {self.head.weight.dtype} and got images of {images.dtype}; to_unit makes uint8 float"
            )
        if images.ndim != 4 or images.shape[1:] not in ((1, 28, 28), (1, SIDE, SIDE)):
            raise ShapeError(f"expected digits of shape (N, 1, 28, 28) or (N, 1, 32, 32), got {tuple(images.shape)}")
        border = (SIDE - images.shape[-1]) // 2
        features: Tensor = self.body(F.pad(images, (border,) * 4, value=BLACK))
        return features


register(DigitClassifier, name="classifier.DigitClassifier")


def digit_classifier(folder: str | os.PathLike[str] = PRETRAINED) -> DigitClassifier:
    """Load a classifier, by default the one that ships with the package, frozen and in evaluation mode.

    Arguments:
        folder: Holds `model.safetensors` and `config.json`.

    Returns:
        The classifier, float32; the stored weights are float16.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind.
    """
    return load_model(Path(folder), DigitClassifier)
