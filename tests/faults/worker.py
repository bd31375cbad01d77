"""A process that is killed, see :mod:`fault_harness.forks`: each line has ``dataset`` and arguments of a run.

A fork says ``go PID`` right before the call and ``done SECONDS`` after it.
"""

import os
import time

import fiftyone as fo
import torch
from fault_harness.forks import serve
from faults_common import CLASSES, picture_transforms, tiny_network
from operators_common import operator


def work(job):
    """Runs one job to its end, if it is let; returns its seconds."""
    torch.set_num_threads(1)
    dataset = fo.load_dataset(job["dataset"])
    compute = operator()
    print("go", os.getpid(), flush=True)
    start = time.perf_counter()
    compute(
        dataset,
        model=tiny_network(),
        transforms=picture_transforms(),
        classes=CLASSES,
        progress=False,
        **job["arguments"],
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    serve(work)
