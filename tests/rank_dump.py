"""Run under torchrun: trains each config as `run.py` does, then each rank writes the weights that it holds itself."""

import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from zoo.config import load_config
from zoo.engine.checkpoint import weights_of
from zoo.engine.setup import set_up
from zoo.engine.sharding import let_go
from zoo.engine.train import Trainer

for file in sys.argv[1:]:
    config = load_config(file)
    assert config.out is not None
    AcceleratorState._reset_state()  # the process group stays
    trainer = Trainer(set_up(config))
    config.out.mkdir(parents=True, exist_ok=True)
    trainer.fit()
    accelerator = trainer.accelerator
    name = f"rank{accelerator.process_index}of{accelerator.num_processes}.safetensors"
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in trainer.model.parameters())
    save_file(weights_of(trainer.model), Path(config.out) / name, {"held": str(held)})
    if trainer.mesh is not None:
        let_go(trainer.mesh)
    last = file == sys.argv[-1]
    if last:
        trainer.close()
        left = [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]
        assert not any("gloo" in name for name in left), f"threads of the process group outlive it: {left}"
