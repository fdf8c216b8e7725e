"""Weights as shards on several processes (FSDP2), which takes half a second to import: only a training with `shard` does."""

import torch
from accelerate import Accelerator
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor


def sharded(accelerator: Accelerator, objective: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """`distribute` with `shard`: the objective itself, in place, its weights those of the first process."""
    for parameter in objective.parameters():
        parameter.data = parameter.data.contiguous()
    for value in objective.state_dict().values():
        distributed.broadcast(value, 0)
    state = optimizer.state_dict()
    fully_shard(objective, mesh=init_device_mesh(accelerator.device.type, (accelerator.num_processes,)))
    shards = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    for index, entries in state["state"].items():
        mesh, placements = shards[index].device_mesh, shards[index].placements
        for name, value in entries.items():
            if value.ndim:
                entries[name] = distribute_tensor(value, mesh, placements, src_data_rank=None)
    optimizer.param_groups[0]["params"] = shards
    optimizer.load_state_dict(state)
    return objective
