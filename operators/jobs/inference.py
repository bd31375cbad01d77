"""Composites through the model: probabilities of pictures, and long calls that report and stop."""

import concurrent.futures
import contextlib
import os
import queue
import threading

import numpy as np


def probabilities_of(model, images, precision="float32"):
    """Runs a classifier on a batch.

    Args:
        model: the :class:`LoadedModel`
        images: (N, C, h, w) of the model's transforms
        precision ("float32"): of the forward

    Returns:
        (N, classes) float32 tensor on the CPU in [0, 1]: softmax, or sigmoid for a model with one
        output or several labels per image

    Raises:
        ValueError: if the model gives no class scores
    """
    return model.adapted.probabilities(forwarded(model, images, precision)).cpu()


def forwarded(model, images, precision="float32"):
    """Runs any model on a batch and leaves it as it came.

    Args:
        model: the :class:`LoadedModel`
        images: (N, C, h, w) of the model's transforms
        precision ("float32"): of the forward

    Returns:
        what ``model.adapted.forward`` returns
    """
    import torch

    from ...cam_core.capture.taps import exclusive, unchanged

    images = to_device(model, images)
    if hasattr(model.adapted, "read_outputs"):
        model.adapted.read_outputs(images)
    kind = torch.bfloat16 if precision == "auto" else getattr(torch, precision)
    half = precision != "float32" and images.is_cuda
    with (
        exclusive(model.module),
        unchanged(model.module),
        torch.inference_mode(),
        torch.autocast(images.device.type, dtype=kind if half else None, enabled=half),
    ):
        return model.adapted.forward(images)


def answers_alike(model, images):
    """Whether a model gives the same outputs when it is asked twice about the same images.

    Args:
        model: the :class:`LoadedModel`
        images: (N, C, h, w) of the model's transforms
    """
    import torch

    from ...cam_core.adapters.readings import tensors_in
    from ...cam_core.capture.taps import exclusive, unchanged

    images = to_device(model, images)
    with exclusive(model.module), unchanged(model.module), torch.no_grad():
        pair = [list(tensors_in(model.adapted.forward(images))) for _ in range(2)]
    if len(pair[0]) != len(pair[1]):
        return False
    return all(
        one.shape == two.shape
        and torch.allclose(one.float(), two.float(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for one, two in zip(*pair, strict=True)
    )


class Predictor:
    """Maps a list of pictures (h, w, 3) uint8 to class probabilities, as the loader would.

    Args:
        model: the :class:`LoadedModel`
        workers: threads that transform; 0 transforms in the caller's
        precision ("float32"): of the forward
    """

    def __init__(self, model, workers, precision="float32"):
        self._model = model
        self._precision = precision
        self._workers = workers
        self._pool = (
            concurrent.futures.ThreadPoolExecutor(workers, "cam51-compose") if workers else None
        )

    @property
    def mapping(self):
        """``map``, in the threads if there are any."""
        return map if self._pool is None else self._pool.map

    def close(self):
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, pictures):
        """Returns (N, classes) probabilities as a float32 array."""
        return np.stack(self.answers(pictures, pictures)).astype(np.float32, copy=False)

    def answers(self, pictures, queries):
        """Runs pictures through the model; a batch that does not fit the memory is halved.

        Args:
            pictures: arrays (h, w, 3) uint8
            queries: what :meth:`read` is told of each

        Returns:
            a list, what ``read`` says of each picture
        """
        import torch

        from ...cam_core.batching import Chunks

        tensors = list(self.mapping(self._transform, pictures))
        groups, found = {}, [None] * len(tensors)
        for row, tensor in enumerate(tensors):
            groups.setdefault(tuple(tensor.shape), []).append(row)
        for rows in groups.values():

            def answered(start, stop, rows=rows):
                part = rows[start:stop]
                batch = torch.stack([tensors[row] for row in part])
                return part, self.read(batch, [queries[row] for row in part])

            for part, answers in Chunks(len(rows)).run(len(rows), answered):
                for row, answer in zip(part, answers, strict=True):
                    found[row] = answer
        return found

    def read(self, batch, queries):
        """The answers for a batch (N, C, h, w), here the class probabilities of each image."""
        return probabilities_of(self._model, batch, self._precision).numpy()

    def _transform(self, picture):
        from PIL import Image

        return self._model.transforms(Image.fromarray(picture))


class Abandoned(Exception):
    """Nobody waits for the result any more."""


class Reporting:
    """A long call in a thread of its own, which can be watched and stopped.

    :mod:`cam_core.bias.swap_test` calls ``predict`` for every batch and returns at its end; here a generator
    tells how many pictures are through, and closing it stops the call at its next batch.

    Args:
        predict: a list of pictures -> probabilities
    """

    def __init__(self, predict):
        self._predict = predict
        self._stop = threading.Event()
        self._done = queue.SimpleQueue()
        self.result = None

    def predict(self, pictures):
        """``predict`` for the call: counts, and raises :class:`Abandoned` once nobody listens."""
        if self._stop.is_set():
            raise Abandoned
        answer = self._predict(pictures)
        self._done.put(len(pictures))
        return answer

    def run(self, call):
        """Runs ``call(predict)``; afterwards :attr:`result` is what it returned.

        Yields:
            how many pictures are through in all, after each batch
        """
        total = 0
        with concurrent.futures.ThreadPoolExecutor(1, "cam51-check") as pool:
            future = pool.submit(call, self.predict)
            future.add_done_callback(lambda _: self._done.put(None))
            try:
                while (count := self._done.get()) is not None:
                    total += count
                    yield total
                self.result = future.result()
            finally:
                self._stop.set()
                with contextlib.suppress(Abandoned):
                    if not future.done():
                        future.result()


def workers_of(settings):
    """How many threads decode and compose."""
    if settings.num_workers is not None:
        return settings.num_workers
    return min(8, os.cpu_count() or 1)


def to_device(model, images):
    """A batch of the loader where the model is, in its dtype."""
    like = next(model.module.parameters(), None)
    if like is None:
        return images
    return images.to(device=model.device, dtype=like.dtype, non_blocking=True)
