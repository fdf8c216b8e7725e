"""The model: two charts of pictures that all styles share, and a convolution for each style, made by a hypernetwork."""

from dataclasses import dataclass, replace
from functools import partial
from typing import cast, final

import torch
from torch import Tensor, nn

from applications.common.kinds import built_from
from applications.style_transfer.config import ModelConfig
from induced import InducedSpace, Linearizer
from induced.bijections import AffineCoupling, Bijection, Composition, Flatten, Linear, Squeeze
from induced.bijections.networks import ConvNet
from induced.errors import DomainError, ShapeError
from induced.operators import Convolution, Dense


@final
class PictureChart(nn.Module):
    """A chart of pictures of any size: squeezes, then blocks of two affine couplings and a mixing of the channels.

    `at(height, width)` is the bijection of one size; all sizes share the weights. Nothing in it looks at the whole picture, so
    that it acts on a tile as on the picture, but for a border of `reach` pixels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kept, C = config.channels // 2, config.channels
        self.conditioners = nn.ModuleList(
            ConvNet(kept, C, config.width, window=window) for _ in range(config.blocks) for window in (config.window, 0)
        )
        self.mixings = nn.ModuleList(Dense(nn.Parameter(torch.linalg.qr(torch.randn(C, C))[0])) for _ in range(config.blocks))
        self._made = dict[tuple[int, int], Composition]()

    @property
    def reach(self) -> int:
        """Pixels that a pixel of the result looks to each side, at most."""
        return self.config.stride * (sum(cast(ConvNet, net).reach for net in self.conditioners) + 1) - 1

    def at(self, height: int, width: int) -> Composition:
        """The chart of pictures (3, height, width).

        Raises:
            ShapeError: a side is no multiple of 2^squeezes.
        """
        if (height, width) in self._made:
            return self._made[height, width]
        parts, shape = list[Bijection](), (3, height, width)
        for _ in range(self.config.squeezes):
            parts.append(Squeeze(shape))
            shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
        coupling = partial(AffineCoupling, shape, max_log_scale=self.config.max_log_scale)
        for block, mixing in enumerate(self.mixings):
            first, second = self.conditioners[2 * block], self.conditioners[2 * block + 1]
            parts += [coupling(first), coupling(second, flip=True), Linear(cast(Dense, mixing), shape)]
        made = self._made[height, width] = Composition(*parts, Flatten(shape))
        return made


@final
class StyleCores(nn.Module):
    """The kernels (S, C, C / groups, k, k) of all styles: the identity's start and sum_f h_f(s) factors_f, h a network of s.

    Kernels of styles that were added later are kept as they were fitted.
    """

    added: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        trained, inputs = len(config.names) - len(config.added), config.channels // config.groups
        shape = (config.channels, inputs, config.kernel, config.kernel)
        self.embedding = nn.Embedding(trained, config.features)
        self.hidden = nn.Sequential(
            nn.Linear(config.features, 4 * config.features), nn.SiLU(), nn.Linear(4 * config.features, config.features)
        )
        size = (config.features * inputs * config.kernel**2) ** 0.5
        self.factors = nn.Parameter(0.1 / size * torch.randn(config.features, *shape))
        base = torch.zeros(shape)
        channels, center = torch.arange(config.channels), (config.kernel - 1) // 2
        base[channels, channels % inputs, center, center] = 1.0
        self.base = nn.Parameter(base)
        self.register_buffer("added", torch.zeros(len(config.added), *shape))

    def forward(self) -> Tensor:
        h = self.hidden(self.embedding.weight).to(self.factors)  # bfloat16 under autocast
        return torch.cat([self.base + torch.tensordot(h, self.factors, dims=1), self.added])


@final
@dataclass(frozen=True, eq=False)
class Styles:
    """The styles as operators between the two spaces of pictures of one size: `styles["candy"]` is a Linearizer.

    They share both spaces, so that sums, multiples and compositions with pseudoinverses are those of the library.

    Attributes:
        config: settings of the model.
        domain: the space X of photographs.
        codomain: the space Y of stylised pictures.
        kernels: one for each of `config.names`.
    """

    config: ModelConfig
    domain: InducedSpace
    codomain: InducedSpace
    kernels: Tensor

    def __getitem__(self, style: str) -> Linearizer:
        return self.operator(self.kernels[self.index(style)])

    def index(self, style: str) -> int:
        """The number of a style.

        Raises:
            DomainError: no style is called so.
        """
        if style not in self.config.names:
            raise DomainError(f"no style is called {style!r}; this model has {', '.join(self.config.names)}")
        return self.config.names.index(style)

    def operator(self, kernel: Tensor) -> Linearizer:
        """The map of any kernel, or of a batch of kernels, one for each picture of a batch."""
        return Linearizer(_core(self.config, kernel, *self.domain.shape[1:]), self.domain, self.codomain)


def _core(config: ModelConfig, kernel: Tensor, height: int, width: int) -> Convolution:
    shape = (config.channels, height // config.stride, width // config.stride)
    return Convolution(kernel, shape, mode=config.padding, groups=config.groups)


@final
@built_from(ModelConfig, "style_transfer.StyleTransfer")
class StyleTransfer(nn.Module):
    """f_s = g_y^-1 A_s g_x for each style s: shared charts g_x, g_y and a convolution A_s (docs/theory/style_transfer.md)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.content, self.stylised, self.cores = PictureChart(config), PictureChart(config), StyleCores(config)
        # equal charts about an identical core: training starts near the identity map
        self.stylised.load_state_dict(self.content.state_dict())

    @property
    def reach(self) -> int:
        """Pixels that a pixel of f_s(x) depends on to each side, at most."""
        return self.content.reach + self.stylised.reach + self.config.stride * (self.config.kernel // 2)

    def at(self, height: int, width: int) -> Styles:
        """All styles for pictures (3, height, width).

        Raises:
            ShapeError: a side is no multiple of 2^squeezes.
        """
        X, Y = InducedSpace(self.content.at(height, width)), InducedSpace(self.stylised.at(height, width))
        return Styles(self.config, X, Y, self.cores())

    def operator(self, style: str | None = None, height: int = 256, width: int = 256) -> Linearizer:
        """f_s for pictures of one size, by default of the first style that has a teacher."""
        return self.at(height, width)[self.config.styles[0] if style is None else style]

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """f_s(x) for pictures (N, 3, H, W) and a style's number (N,) for each; it checks no values, as `operator` does."""
        height, width = x.shape[-2:]
        core = _core(self.config, self.cores()[style], height, width)
        return self.stylised.at(height, width).inverse(core(self.content.at(height, width)(x)))

    def with_style(self, name: str, kernel: Tensor) -> "StyleTransfer":
        """The model with one more style, of this kernel.

        Raises:
            DomainError: a style of this name is there. ShapeError: the kernel has another shape.
        """
        if kernel.shape != self.cores.base.shape:
            raise ShapeError(f"the kernels of this model have shape {tuple(self.cores.base.shape)}, got {tuple(kernel.shape)}")
        state = self.state_dict()
        state["cores.added"] = torch.cat([self.cores.added, kernel.detach()[None].to(self.cores.added)])
        model = StyleTransfer(replace(self.config, added=(*self.config.added, name))).to(self.cores.base)
        model.load_state_dict(state)
        return model.train(self.training).requires_grad_(self.cores.base.requires_grad)


def build(config: ModelConfig) -> StyleTransfer:
    """The untrained model: every style is near the identity map."""
    return StyleTransfer(config)
