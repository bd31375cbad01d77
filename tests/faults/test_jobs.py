"""Every job against every fault: afterwards, what is stored is what an undisturbed call stores."""

import pytest
from fault_harness.faults import Bench
from fault_harness.jobs import JOBS

STORAGES = ["database", "disk"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("faults"))
    yield bench
    bench.close()


@pytest.fixture(scope="module", params=[(j, s) for j in JOBS for s in STORAGES], ids="-".join)
def trial(request, bench):
    """A job that was called once undisturbed."""
    return bench.ready(*request.param)


def check(outcome):
    assert not outcome.wrong, str(outcome)


def test_killed_and_called_again(trial):
    """Nothing is lost, nothing doubled; deleted afterwards, nothing of it is left."""
    check(trial.disturb("kill -9"))


def test_connection_cut(trial):
    check(trial.disturb("connection cut"))


def test_the_same_call_in_two_processes(trial):
    check(trial.disturb("two processes"))


def test_dataset_deleted_by_another_process(trial):
    check(trial.disturb("dataset deleted"))


def test_field_deleted_by_another_process(trial):
    check(trial.disturb("field deleted"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_twenty_moments_and_called_again(trial):
    outcomes = [trial.disturb("kill -9") for _ in range(20)]
    for outcome in outcomes:
        check(outcome)
    assert sum(outcome.ended == "killed" for outcome in outcomes) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_connection_cut_at_every_message(trial):
    """Before it is sent, and before it is answered."""
    for at in range(1, trial.messages + 1):
        for sent in (False, True):
            check(trial.disturb("connection cut", at=at, sent=sent))


@pytest.mark.slow
@pytest.mark.parametrize("_", range(3))
def test_eight_seconds_without_a_database(trial, _):
    check(trial.disturb("database away"))


@pytest.mark.slow
def test_twenty_seconds_with_a_frozen_database(trial):
    check(trial.disturb("database frozen"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", ["two processes", "dataset deleted", "field deleted"])
def test_five_times_from_elsewhere(trial, fault):
    for _ in range(5):
        check(trial.disturb(fault))
