"""Modular style transfer as an application."""

from applications.application import Application, Commands, register
from applications.style_transfer.commands import add_style, style, styles_command
from applications.style_transfer.config import Config
from applications.style_transfer.model import StyleTransfer, build
from applications.style_transfer.train import train
from induced import Linearizer

STRIDES = 4
"""Side of the pictures that the laws are checked on, in entries of the coordinates; the weights are those of all sizes."""


def small(model: StyleTransfer) -> Linearizer:
    """The first style for small pictures."""
    side = STRIDES * model.config.stride
    return model.operator(None, side, side)


COMMANDS: Commands = {"style": style, "styles": styles_command, "add-style": add_style}

APPLICATION = register(Application("style-transfer", Config, lambda config: build(config.model), train, COMMANDS, operator=small))
