"""Two threads explain one module at once, as two people do who use one zoo model in the App."""

import threading

import pytest
import torch

from cam_core import explain


@pytest.mark.parametrize("method", ["eigencam", "gradcam", "ablationcam"])
def test_each_thread_gets_its_own_maps(method):
    class Slow(torch.nn.Module):
        """Waits behind the layer, so that the other thread would come in between."""

        def __init__(self):
            super().__init__()
            self.body = torch.nn.Conv2d(3, 4, 3)
            self.head = torch.nn.Linear(4, 5)
            self.meeting = threading.Event()

        def forward(self, images):
            x = self.body(images).relu()
            self.meeting.wait(0.05)
            return self.head(x.amax((2, 3)))

    torch.manual_seed(0)
    model = Slow().eval()
    batches = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    expected = [explain(model, b, method, 1, "body").maps[method, "body"] for b in batches]
    results = [None, None]

    def work(number):
        results[number] = explain(model, batches[number], method, 1, "body").maps[method, "body"]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, alone in zip(results, expected, strict=True):
        assert torch.equal(result, alone)
    assert not any(m._forward_hooks for m in model.modules())
