"""One bar over all phases of a job, against parts worked out by hand."""

import itertools

import pytest
from bias_common import inner

pytestmark = pytest.mark.usefixtures("plugin")


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def bar(planned, clock):
    return inner("jobs.whole").WholeBar(planned, clock)


def phase(name, done, total):
    return inner("jobs.base").Phase(name, done, total, 0.0)


def test_parts_are_as_large_as_they_cost(clock):
    whole = bar({"scoring": 10, "replacing the region": 30}, clock)
    assert whole.of(phase("scoring", 0, 10)).whole == 0
    assert whole.of(phase("scoring", 10, 10)).whole == pytest.approx(0.25)
    assert whole.of(phase("replacing the region", 15, 30)).whole == pytest.approx(0.625)
    assert whole.of(phase("replacing the region", 30, 30)).whole == pytest.approx(1)


def test_it_only_grows_whatever_was_planned(clock):
    """As it went before: 67, 100, 33, 100, 10 ... 89 %."""
    planned = {"a": 10, "left out": 500, "b": 10, "writing": 100}
    whole = bar(planned, clock)
    steps = [
        ("a", 10),
        ("not planned", 40),
        ("b", 300),
        ("writing", 100),
        ("a surprise at the end", 5),
    ]
    seen = [
        whole.of(phase(name, done, total)).whole
        for name, total in steps
        for done in range(total + 1)
    ]
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(seen))
    assert seen[-1] == pytest.approx(1)


def test_a_phase_that_goes_on_beyond_its_total_does_not_stand_still(clock):
    whole = bar({"swapping backgrounds": 100}, clock)
    shares = [whole.of(phase("swapping backgrounds", n, 100)).whole for n in (50, 100, 150, 400)]
    assert shares == pytest.approx([0.4, 0.8, 1 - 0.2 / 1.5, 0.95])


def test_time_left_is_that_of_the_whole(clock):
    whole = bar({"scoring": 10, "replacing the region": 30}, clock)
    assert whole.of(phase("scoring", 0, 10)).left is None
    clock.now += 20
    assert whole.of(phase("scoring", 10, 10)).left == "~60 s left"
    clock.now += 20
    assert whole.of(phase("replacing the region", 15, 30)).left == "~24 s left"
    assert whole.of(phase("replacing the region", 30, 30)).left is None


def test_other_states_pass(clock):
    state = inner("jobs.pipeline").Progress(done=1, total=2)
    assert bar({}, clock).of(state) is state
