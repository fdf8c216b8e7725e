"""Conditioners: free networks that couplings compute their shifts and scales with."""

from torch import nn

from induced._registry import register
from induced.bijections.networks.convnet import ConvNet
from induced.bijections.networks.mlp import MLP
from induced.bijections.networks.unet import UNet

__all__ = ["MLP", "ConvNet", "UNet"]

# what conditioners are made of besides
for _layer in (nn.ReLU, nn.SiLU, nn.Tanh):
    register(_layer, name=f"torch.{_layer.__name__}")
register(
    nn.Linear,
    describe=lambda m: {"in_features": m.in_features, "out_features": m.out_features, "bias": m.bias is not None},
    name="torch.Linear",
)
register(
    nn.Sequential,
    describe=lambda m: {"layers": list(m._modules.values())},  # a layer that is there twice stays there twice
    build=lambda layers: nn.Sequential(*layers),
    name="torch.Sequential",
)
