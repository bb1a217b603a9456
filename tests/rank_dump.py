"""Run under torchrun: trains as `run.py` does, then each rank writes the weights that it holds itself."""

import sys
from pathlib import Path

from safetensors.torch import save_file

from zoo.config import load_config
from zoo.setup import set_up
from zoo.train import Trainer

config = load_config(sys.argv[1])
assert config.out is not None
trainer = Trainer(set_up(config))
config.out.mkdir(parents=True, exist_ok=True)
trainer.fit()
accelerator = trainer.accelerator
name = f"rank{accelerator.process_index}of{accelerator.num_processes}.safetensors"
save_file({k: v.clone() for k, v in trainer.model.state_dict().items()}, Path(config.out) / name)
trainer.close()
