"""A chart that counts its calls."""

from torch import Tensor

from induced.bijections import Bijection


class Counting(Bijection):
    """Doubles its points and counts how often it is called each way."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.encoded, self.decoded = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.encoded += 1
        return 2 * x

    def inverse(self, z: Tensor) -> Tensor:
        self.decoded += 1
        return z / 2

    def calls(self) -> tuple[int, int]:
        """(encoded, decoded) since the last question."""
        counted = (self.encoded, self.decoded)
        self.encoded = self.decoded = 0
        return counted
