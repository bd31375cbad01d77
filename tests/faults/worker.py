"""A process that is killed: forks one per line of its input, so that imports are paid once.

Each line is JSON: ``dataset``, and arguments of ``compute_cams``. Each fork says ``go PID`` right before
the call and ``done SECONDS`` after it; ``ended STATUS`` is said when it is gone.
"""

import json
import os
import sys
import time

import fiftyone as fo
import torch
from faults_common import CLASSES, picture_transforms, tiny_network
from operators_common import operator


def work(job):
    """Runs one job to its end, if it is let."""
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
    print("done", time.perf_counter() - start, flush=True)


def main():
    """Reads jobs until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(json.loads(line))
            except BaseException as error:
                print("error", repr(error).replace("\n", " "), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("ended", status, flush=True)


if __name__ == "__main__":
    main()
