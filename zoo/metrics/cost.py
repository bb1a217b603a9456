"""What a model costs: its size, the speed it was trained at, the speed it samples at, and memory."""

from __future__ import annotations

import sys
import time

import torch

from zoo.metrics.core import Score, Subject, register_metric
from zoo.records import Written, read_results

SECONDS = 2.0


@register_metric("cost", "parameters, training and sampling speed, memory")
@torch.no_grad()
def cost(subject: Subject) -> dict[str, Score]:
    """Rows parameters, sampling_images_per_second, peak_memory and, after training, training_images_per_second.

    Samples are drawn from the model's own prior for two seconds, in batches of `eval_batch_size`, after one batch that
    is not timed. `n` is the batch size, which does not vary from run to run as the number of images does.
    """
    model, config, accelerator = subject.model, subject.config, subject.accelerator
    device, batch_size = accelerator.device, config.eval_batch_size
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    n, seconds = _sample_for(SECONDS, subject)
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else _peak_resident_bytes()
    measured = subject.gather({accelerator.process_index: torch.tensor([[n / seconds, memory / 2**20]]).double()})

    where = f"{_name(device)}, {torch.get_num_threads()} CPU threads"
    sampling = f"batches of {batch_size} from the model's own prior, device synchronised, mean over processes; {where}"
    peak = (
        f"greatest memory allocated on the GPU while sampling batches of {batch_size}"
        if on_gpu
        else "greatest resident memory of the process so far, libraries, data and every metric before included"
    )
    size = sum(p.numel() for p in model.parameters())
    rows = {
        "parameters": Score(size, "", None, "of all players together", 1, ""),
        "sampling_images_per_second": Score(
            measured[:, 0].mean().item(), "images/s", True, sampling, batch_size, "", "prior"
        ),
        "peak_memory": Score(measured[:, 1].max().item(), "MiB", False, f"{peak}; {where}", batch_size, ""),
    }
    results = Written(**read_results(config.out)) if config.out else Written()
    if (speed := results.images_per_second) and results.batch_size:
        protocol = (
            f"whole training run without its evaluations, {results.processes} process(es) on {results.device}, "
            f"global batch {results.batch_size}, precision {results.precision}"
        )
        rows["training_images_per_second"] = Score(speed, "images/s", True, protocol, results.batch_size, "train")
    return rows


def _sample_for(seconds: float, subject: Subject) -> tuple[int, float]:
    """Sample for so long: how many images, in how many seconds."""
    size, device = subject.config.eval_batch_size, subject.accelerator.device
    y = None
    if subject.model.needs_labels:
        labels = subject.data.test.batch(torch.arange(size) % len(subject.data.test))[1]
        assert labels is not None
        y = labels.to(device)
    subject.model.sample(size, y)  # kernels are chosen and memory is reserved at the first call
    _wait_for(device)
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        subject.model.sample(size, y)
        _wait_for(device)
        n += size
    return n, time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_resident_bytes() -> int:
    import resource  # not on Windows, where the other metrics shall still be found

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
