"""A run that the App shows ends when nobody listens any more, not when Python collects it."""

import asyncio
import importlib
import threading
import time

import anyio
import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
from faults_common import CLASSES, LAYER, picture_transforms, tiny_network, write_pictures
from operators_common import PLUGIN, operator, prepared


@pytest.fixture(scope="module")
def stream(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.base").stream


class Messages:
    """A generator that takes a while for each message, and knows how it ended."""

    def __init__(self, count=1000, seconds=0.05, fails=False):
        self.closed, self.working = threading.Event(), threading.Event()
        self.generator = self._run(count, seconds, fails)

    def _run(self, count, seconds, fails):
        try:
            for number in range(count):
                self.working.set()
                time.sleep(seconds)
                self.working.clear()
                yield number
            if fails:
                raise ValueError("what went wrong")
        finally:
            self.closed.set()


async def read(iterator, received):
    async for message in iterator:
        received.append(message)
        # as the server does while it sends
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_reader_that_is_gone_ends_the_run(stream, count):
    messages, received = Messages(), []
    iterator = stream(messages.generator)

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(read, iterator, received)
            # while a message is being made: one that is being sent is the server's
            while len(received) < count or not messages.working.is_set():
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        # still referenced, so it was not Python that collected it
        assert messages.closed.is_set()

    asyncio.run(main())
    assert count <= len(received) < 1000


def test_every_message_and_the_error_arrive(stream):
    messages, received = Messages(3, 0, fails=True), []
    with pytest.raises(ValueError, match="what went wrong"):
        asyncio.run(read(stream(messages.generator), received))
    assert received == [0, 1, 2]
    assert messages.closed.is_set()


class Counted(torch.nn.Module):
    """A network whose every forward takes a while."""

    def __init__(self, seconds):
        super().__init__()
        self.net = tiny_network()
        self.forwards, self.seconds = [], [seconds]

    def forward(self, images):
        self.forwards.append(time.monotonic())
        time.sleep(self.seconds[0])
        return self.net(images)


@pytest.fixture
def dataset(make_dataset, tmp_path):
    return make_dataset(*(fo.Sample(filepath=p) for p in write_pictures(tmp_path, 4)))


def operator_with(network):
    """``compute_cams`` as the App runs it, with a network that no form can name."""
    base = importlib.import_module(f"{PLUGIN}.operators.compute_cams")
    job = importlib.import_module(f"{PLUGIN}.operators.compute.job").CamJob
    params = importlib.import_module(f"{PLUGIN}.operators.compute.params")

    class WithNetwork(base.ComputeCams):
        jobs = []

        def make_job(self, samples, arguments, origin):
            settings = params.Settings(
                cam_key="run", methods=[("rise", {"samples": 4000})], layers=f"net.{LAYER}"
            )
            return prepared(job, samples, settings, network, picture_transforms(), CLASSES, origin)

    return WithNetwork()


def of_the_app(dataset):
    """The context of a call that the App makes."""
    request = {"dataset_name": dataset.name, "params": {}, "prompt_id": "1"}
    request["operator_uri"] = "@cam51/heatmaps/compute_cams"
    return foo.executor.ExecutionContext(request, executor=foo.executor.Executor())


@pytest.mark.parametrize("after", [0.0, 1.0, 3.0])
def test_a_tab_that_is_closed_in_the_first_seconds_ends_the_preparation(dataset, plugin, after):
    """The trial of this method takes 50 s; whoever closes the tab waits for one forward."""
    network, received = Counted(0.4), []
    ctx = of_the_app(dataset)
    iterator = asyncio.run(operator_with(network).execute(ctx))

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(read, iterator, received)
            while not (network.forwards and received):
                await anyio.sleep(0.005)
            await anyio.sleep(after)
            group.cancel_scope.cancel()
            return time.monotonic()

    closed = asyncio.run(main())
    assert time.monotonic() - closed < 2
    forwards = len(network.forwards)
    time.sleep(1)
    assert len(network.forwards) == forwards, "nothing works on"
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not [module for module in network.modules() if module._forward_pre_hooks]
    assert dataset.list_runs() == []
    assert [name for name in dataset.get_field_schema() if name.startswith("run_")] == []
    assert not fo.core.odm.get_db_conn().runs.count_documents({"_dataset_id": dataset._doc.id})


def test_what_is_prepared_is_not_disturbed(dataset, plugin):
    network, received = Counted(0), []
    ctx = of_the_app(dataset)
    asyncio.run(read(asyncio.run(operator_with(network).execute(ctx)), received))
    dataset.reload()
    assert dataset.get_run_info("run").config.status == "finished"
    assert len(dataset.exists("run_rise")) == 4


def test_stopping_a_run_that_is_not_registered_yet_says_so(dataset, plugin):
    with pytest.raises(
        ValueError, match="no CAM run 'run' to stop .there are: none.; one that sti"
    ):
        operator("stop_cam_run")(dataset, "run")
