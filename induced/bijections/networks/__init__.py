"""Conditioners: free networks that couplings compute their shifts and scales with."""

from induced.bijections.networks.convnet import ConvNet
from induced.bijections.networks.mlp import MLP
from induced.bijections.networks.unet import UNet

__all__ = ["MLP", "ConvNet", "UNet"]
