"""Chunks: the same results whatever fits, and less at once when the memory does not suffice."""

from __future__ import annotations

import pytest
import torch

from cam_core.batching import Chunks, in_format_of


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Device:
    """Doubles numbers, so long as no more than `fits` come at once."""

    def __init__(self, fits):
        self.fits = fits
        self.asked = []

    def __call__(self, start, stop):
        self.asked.append((start, stop))
        if stop - start > self.fits:
            raise out_of_memory()
        return 2 * torch.arange(start, stop)


@pytest.mark.parametrize("size", [1, 3, 4, 10, 100])
def test_chunks_cover_everything_once_in_order(size):
    device = Device(fits=100)
    result = torch.cat(list(Chunks(size).run(10, device)))
    assert result.tolist() == list(range(0, 20, 2))
    assert all(stop - start <= size for start, stop in device.asked)


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 9])
def test_halved_when_out_of_memory(fits):
    device = Device(fits)
    chunks = Chunks(16)
    result = torch.cat(list(chunks.run(23, device)))
    assert result.tolist() == list(range(0, 46, 2))
    assert chunks.size <= fits < 2 * chunks.size + 1
    assert device.asked[:2] == [(0, 16), (0, 8)]


def test_the_size_that_fitted_is_kept():
    device = Device(fits=4)
    chunks = Chunks(16)
    list(chunks.run(20, device))
    device.asked.clear()
    list(chunks.run(8, device))
    assert device.asked == [(0, 4), (4, 8)]


def test_a_short_rest_is_halved_from_its_own_length():
    device = Device(fits=2)
    chunks = Chunks(100)
    list(chunks.run(6, device))
    assert device.asked == [(0, 6), (0, 3), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]


def test_one_item_that_does_not_fit_is_the_error():
    device = Device(fits=0)
    with pytest.raises(torch.OutOfMemoryError, match="2.00 GiB"):
        list(Chunks(4).run(4, device))
    assert device.asked == [(0, 4), (0, 2), (0, 1)]


def test_other_errors_are_not_taken_for_it():
    def broken(start, stop):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Chunks(4).run(4, broken))


def test_nothing_to_do():
    assert list(Chunks(4).run(0, Device(fits=4))) == []


def test_the_failed_chunk_is_released_before_the_next_try():
    """An error's traceback holds the tensors of the function that raised it."""
    import weakref

    held = []

    def greedy(start, stop):
        assert all(ref() is None for ref in held)
        large = torch.zeros(stop - start)
        held.append(weakref.ref(large))
        if stop - start > 1:
            raise out_of_memory()
        return large.sum()

    list(Chunks(8).run(8, greedy))


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
def test_bad_size(size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        Chunks(size)


def test_the_option_is_named():
    with pytest.raises(ValueError, match="samples must be"):
        Chunks(0, "samples")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_format_is_that_of_the_images(layout):
    images = torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=layout)
    batch = torch.rand(6, 3, 4, 5)
    result = in_format_of(images, batch)
    assert result.dtype is torch.bfloat16
    assert result.is_contiguous(memory_format=layout)
    assert torch.equal(result, batch.bfloat16())
