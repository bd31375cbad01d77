"""A run that the App shows ends when nobody listens any more, not when Python collects it."""

import asyncio
import importlib
import threading
import time

import anyio
import pytest
from operators_common import PLUGIN


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
