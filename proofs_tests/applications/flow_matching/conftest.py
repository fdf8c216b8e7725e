"""The shipped model of flow matching, and digits that it has not seen."""

import pytest
from torch import Tensor

from applications.common.data import load, to_unit
from applications.common.options import ModelFolder
from applications.flow_matching.model import FlowMatching


@pytest.fixture(scope="module")
def pretrained() -> FlowMatching:
    return ModelFolder(pretrained="mnist").load(FlowMatching)


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    """100 of the digits that mnist5k holds out, ten of each class."""
    return to_unit(load("mnist5k", "test").images[::5])
