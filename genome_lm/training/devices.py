"""Training on several devices: Lightning's strategies, and what a step has to know of them."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    OptimStateKeyType,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.parallel import DistributedDataParallel

from genome_lm.device import choose_device
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.shards import Exchange

StrategyName = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class Machine:
    """What a run trains on, and where its curves go. A run may go on with others.

    Attributes:
        num_workers: Processes that read ahead.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto", a CUDA GPU if there is one.
        devices: Devices to train on together, in each node.
        num_nodes: Nodes; `srun` starts this same command once for each device, and Lightning reads SLURM's variables.
        strategy: "ddp", or "fsdp" for models that outgrow a device; "auto" is "ddp" where there are several devices.
        context_devices: Devices that share each window, each of which computes its positions of it
            (`genome_lm.model.shards`); they divide all devices into groups, which train in data-parallel.
        context_exchange: "exact", or "int8", by which these devices exchange fewer bytes and results change: the one
            field that a run can't go on with another of.
        loggers: "tensorboard", "wandb", "mlflow", or "csv" for metrics.csv alone, which is always written
            (`genome_lm.training.loggers`); None is TensorBoard if it is installed.
    """

    num_workers: int = 0
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: StrategyName = "auto"
    context_devices: int = 1
    context_exchange: Exchange = "exact"
    loggers: Sequence[str] | None = None

    @property
    def processes(self) -> int:
        """Devices of all nodes together."""
        return self.devices * self.num_nodes


def choose_accelerator(device: str, devices: int) -> dict[str, Any]:
    """Lightning's arguments "accelerator" and "devices" for so many devices of a kind in each node.

    Raises:
        GenomeLMError: If there is no such device, or there are fewer.
    """
    if devices < 1:
        raise GenomeLMError(f"devices {devices}: must be at least 1")
    where = choose_device(device)
    if where.index is not None and devices > 1:
        raise GenomeLMError(f"device {device} is one, and devices {devices} were asked for: leave the number out")
    if where.type == "cuda" and devices > torch.cuda.device_count():
        raise GenomeLMError(f"devices {devices}: this node has {torch.cuda.device_count()} that PyTorch can use")
    if where.type == "mps" and devices > 1:
        raise GenomeLMError(f"devices {devices}: with mps there is 1")
    return {"accelerator": where.type, "devices": devices if where.index is None else [where.index]}


def choose_strategy(name: str, processes: int) -> Strategy | str:
    """Lightning's strategy of this name.

    Args:
        name: "auto" (DDP if there are several processes), "ddp" (every device holds the model), or "fsdp" (FSDP2: the
            weights, gradients and optimiser states are spread over the devices).
        processes: Devices of all nodes together.

    Raises:
        GenomeLMError: If there is none of this name, or "fsdp" is asked of one device.
    """
    if name not in ("auto", "ddp", "fsdp"):
        raise GenomeLMError(f"no strategy {name!r}: use auto, ddp or fsdp")
    if name == "fsdp":
        if processes == 1:
            raise GenomeLMError("strategy fsdp spreads a model over several devices; give --devices 2 or more")
        return ModelParallelStrategy(processes, 1, save_distributed_checkpoint=False)
    return "auto" if processes == 1 else DDPStrategy(gradient_as_bucket_view=True)


def process_rank(processes: int) -> int:
    """Number of this process among the `processes` of a run, as Lightning, torchrun or srun have it."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if processes > 1 and name in os.environ:
            return int(os.environ[name])
    return 0


def shard(model: HyenaLM, mesh: DeviceMesh) -> None:
    """Spread the weights over a mesh by FSDP2 (`torch.distributed.fsdp.fully_shard`), block by block."""
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "row_losses")


@contextlib.contextmanager
def gradients_exchanged(wrapped: Any, model: nn.Module, now: bool) -> Iterator[None]:
    """A forward and backward pass after which the devices exchange their gradients only if it is time.

    Args:
        wrapped: What the strategy made of the LightningModule.
        model: The model.
        now: Whether this micro-batch is the last of its step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
    waits = isinstance(wrapped, DistributedDataParallel) and not now
    with wrapped.no_sync() if waits else contextlib.nullcontext():
        yield


def load_optimizer(system: LightningModule, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser the state that Lightning saved; with sharded weights, every device takes its part."""
    if not isinstance(system.trainer.strategy, ModelParallelStrategy):
        optimizer.load_state_dict(state)
        return
    named = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, system)
    set_optimizer_state_dict(system, optimizer, named, options=StateDictOptions(full_state_dict=True))
