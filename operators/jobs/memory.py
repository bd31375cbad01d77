"""Whether a batch fits the machine's memory: measured with one image.

A GPU whose memory runs out says so, and the batch is halved. Of the machine's own memory the system gives out
more than there is, and kills the process that uses it.
"""

import os
import weakref

# Smaller batches are taken as they are.
_SMALL = 32
# of what is free a batch may take
_SHARE = 0.8
# Limit and use of a container, in the two ways in which Linux says it.
_CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def check_batch(batch_size, model, image, call):
    """Refuses a batch size for which this machine has not the memory.

    Args:
        batch_size: as the user gave it; ``"auto"`` is taken as it is
        model: the :class:`LoadedModel`, on its device
        image: (1, C, h, w) an image of the job
        call: does with images (N, C, h, w) what the job does with a batch

    Raises:
        ValueError: if so many images at once need more than is free
    """
    if batch_size == "auto" or batch_size <= _SMALL or model.device.type != "cpu":
        return
    # Of two images less that of one: what does not grow with the batch, such as copied weights, is left out.
    try:
        one, two = (peak_bytes(call, image.repeat(count, 1, 1, 1)) for count in (1, 2))
    except Exception:  # a network whose operations cannot be watched is run as it is
        return
    # an image once by itself and once in the batch
    each = max(0, two - one) + 2 * image.nbytes
    free = free_bytes()
    fitting = int(_SHARE * free / each)
    if batch_size > fitting:
        raise ValueError(
            f"batch_size: {batch_size} images at once take about {batch_size * each / 1e9:.1f} GB here "
            f"({each / 1e6:.1f} MB each, measured with the first image), and {free / 1e9:.1f} GB of memory are "
            f"free; {max(1, fitting)} fit, and larger ones than 32 are hardly faster on a CPU"
        )


def peak_bytes(call, images):
    """How many bytes of tensors are alive at once while a function is called, beyond those before.

    Args:
        call: what is measured, on the CPU
        images: its argument

    Returns:
        a number
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):
        """Notes every tensor that an operation makes, until it is gone."""

        now, peak = 0, 0

        def __init__(self):
            super().__init__()
            self._alive = {}

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor.untyped_storage())
            return made

        def _note(self, storage):
            key = storage._cdata
            if key in self._alive:
                return
            size = storage.nbytes()

            def gone(_):
                self.now -= size
                del self._alive[key]

            self._alive[key] = weakref.ref(storage, gone)
            self.now += size
            self.peak = max(self.peak, self.now)

    counting = Counting()
    with counting:
        call(images)
    return counting.peak


def free_bytes():
    """Bytes of memory that are free on this machine, or in its container."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in _CONTAINER:
        if os.path.exists(limit) and os.path.exists(used):
            with open(limit) as most, open(used) as now:
                text, current = most.read().strip(), int(now.read())
            if text.isdigit():
                free = min(free, max(0, int(text) - current))
    return free
