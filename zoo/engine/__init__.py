"""What drives a run: set-up, the loop, checkpoints, optimizers, sharding, validation."""
