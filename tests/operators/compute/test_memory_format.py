"""``memory_format="channels_last"``: another layout of the same images, the same maps."""

import numpy as np
import pytest
import torch
from operators_common import CLASSES, compute, small_network, transforms

pytestmark = pytest.mark.usefixtures("plugin")


def layouts(network):
    return [(n, v.stride(), v.data_ptr()) for n, v in network.state_dict().items()]


def test_same_maps_and_an_untouched_model(photo_dataset, one_thread):
    plain, dataset, network = photo_dataset(4), photo_dataset(4), small_network()
    given = dict(transforms=transforms(), classes=CLASSES, methods=["gradcam", "layercam"])
    compute(plain, model=small_network(), **given)
    before, seen = layouts(network), []
    hook = network.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    compute(dataset, model=network, memory_format="channels_last", **given)
    hook.remove()
    assert layouts(network) == before
    batches = [x for x in seen if len(x) > 2]  # fewer images are tried before the run
    assert batches
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in batches)
    for field in ("run_gradcam", "run_layercam"):
        scores = np.array([plain.values(f"{field}.score"), dataset.values(f"{field}.score")])
        assert np.allclose(*scores, rtol=1e-5)
        for one, other in zip(
            plain.values(f"{field}.map"), dataset.values(f"{field}.map"), strict=True
        ):
            change = np.abs(one.astype(int) - other.astype(int))
            # one of the 64 levels at most, and only where a value lay between two
            assert change.max() <= 5
            assert (change > 0).mean() < 0.01


def test_a_run_is_gone_on_with_in_its_own_format(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset)
    with pytest.raises(ValueError, match="memory_format: contiguous then, channels_last now"):
        compute(dataset, resume=True, memory_format="channels_last")


def test_refused(photo_dataset):
    with pytest.raises(ValueError, match="memory_format: 'nhwc' is unknown"):
        compute(photo_dataset(1), memory_format="nhwc")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
