"""The training step of each application, with the smallest models that have all of its parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from applications.common.data import Source, Tensors
from applications.common.training import Objective
from applications.flow_matching import config as flow_config
from applications.flow_matching.model import DATA, FlowMatching
from applications.flow_matching.objective import FlowMatchingObjective, LatentObjective
from applications.idempotent import config as projector_config
from applications.idempotent.model import Idempotent
from applications.idempotent.objective import IdempotentObjective
from applications.style_transfer.config import ModelConfig as StyleConfig
from applications.style_transfer.config import ObjectiveConfig as StyleWeights
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.objective import StyleObjective
from applications.style_transfer.pairs import Crops
from proofs_tests.applications import toy

FLOW = flow_config.ModelConfig(
    shape=(1, 8, 8), blocks=1, widths=(4,), dense_blocks=1, dense_width=8, density_blocks=1, density_width=8, components=0, rank=4
)
Step = tuple[Objective, Source]


def flow(**changes: Any) -> Step:
    torch.manual_seed(1)
    return FlowMatchingObjective(FlowMatching(replace(FLOW, **changes)), flow_config.ObjectiveConfig()), toy.images()


def latent() -> Step:
    torch.manual_seed(1)
    model = FlowMatching(FLOW)
    model.chart_at(DATA).initialize(torch.randn(8, *FLOW.shape))
    return LatentObjective(model, flow_config.ObjectiveConfig()), Tensors("c", {"coordinates": torch.randn(40, FLOW.rank)})


def projector() -> Step:
    """It hardens in its first steps, and looks at the isometry at every second one."""
    torch.manual_seed(1)
    model = Idempotent(projector_config.ModelConfig(shape=(1, 8, 8), blocks=1, widths=(4,), rank=3, hardening=4))
    weights = projector_config.ObjectiveConfig(isometry=0.05, isometry_every=2)
    return IdempotentObjective(model, weights), replace(toy.images(), noise=False)


def style() -> Step:
    torch.manual_seed(1)
    model = StyleTransfer(StyleConfig(styles=("candy", "udnie"), blocks=1, squeezes=1, width=6, kernel=3, features=3))
    crops = torch.randint(0, 256, (10, 3, 3, 24, 24), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return StyleObjective(model, StyleWeights(patch=16, margin=2)), Crops("c", crops, 16)


STEPS: dict[str, Callable[[], Step]] = {"flow": flow, "latent": latent, "projector": projector, "style": style}
