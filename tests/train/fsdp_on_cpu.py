"""A training under FSDP2 on CPU processes, run by test_shards.py: `fsdp_on_cpu.py CONFIG group.field=value ...`.

Accelerate turns FSDP on for GPUs alone. Torch shards on CPUs as well, so the switch is thrown by hand here; all else is
what a GPU run does: accelerate's preparation, the settings of fsdp2.yaml that the launcher passes on, and our loop.
"""

import sys

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from nextok_mm.train import loop
from nextok_mm.train.__main__ import main
from nextok_mm.train.config import TrainConfig

plain = loop._accelerator


def _sharding(config: TrainConfig) -> Accelerator:
    accelerator = plain(config)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    assert accelerator.is_fsdp2 and accelerator.num_processes == 2
    return accelerator


loop._accelerator = _sharding
prepared = loop.Run.__init__


def _checked(self: loop.Run, *arguments) -> None:
    prepared(self, *arguments)
    shards = [p for p in self.parameters if 2 * p.to_local().numel() <= p.numel() + p.shape[-1]]
    assert len(shards) > len(self.parameters) / 2, "each process should hold about a half of the weights"
    print("weights are spread", flush=True)


loop.Run.__init__ = _checked
sys.exit(main())
