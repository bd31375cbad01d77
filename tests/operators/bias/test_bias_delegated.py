"""``find_background_bias`` through the queue of delegated operations, and stopped in it."""

from pathlib import Path

import bias_common
import pytest
from bias_common import RELIES, inner
from fiftyone.operators.delegated import DelegatedOperationService
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")
URI = "@cam51/heatmaps/find_background_bias"


@pytest.fixture
def registered():
    """The network of bias_common under a name that another process can load."""
    own = inner("models.registered")
    Path(own.path()).unlink(missing_ok=True)
    operator("register_model")("by background", "bias_common:background_model")
    yield "by background"
    Path(own.path()).unlink(missing_ok=True)


def queue(samples, **arguments):
    """Schedules a run; returns its id."""
    queued = operator("find_background_bias")(
        samples, cam_key="later", delegate=True, layers="features", methods="hirescam",
        num_workers=0, **arguments,
    )  # fmt: skip
    assert queued.delegated
    return queued.result["id"] if isinstance(queued.result, dict) else queued.result.id


def execute(operation):
    """Runs what is queued; returns the operation as it ended."""
    service = DelegatedOperationService()
    service.execute_queued_operations(operator=URI, limit=1)
    return service.get(operation)


def test_delegated(agree, registered):
    dataset = agree(24)
    operation = queue(
        dataset.limit(20), model=registered, objects="ground_truth", donors=3, seed=7, tags=True
    )
    assert dataset.list_runs() == []
    run = execute(operation)
    assert run.run_state == "completed", run.result and run.result.error
    dataset.reload()
    assert dataset.count("later_verdict") == 20
    assert dataset.distinct("later_verdict") == [RELIES]
    assert dataset.count_sample_tags() == {"later: relies on background": 20}
    record = inner("bias.schema").RECORDS.record_of(dataset, "later")
    assert record["status"] == "finished"
    used = record["settings"]
    assert (used["origin"], used["donors"], used["seed"]) == ("delegated", 3, 7)
    assert dataset.load_run_results("later").bias["tested"] == 20
    assert dataset.get_run_info("later").config.settings["origin"] == "delegated"


def test_without_objects_the_queue_says_so_too(agree, registered):
    dataset = agree(12)
    run = execute(queue(dataset, model=registered, objects=None, labels=None))
    assert run.run_state == "completed", run.result and run.result.error
    dataset.reload()
    record = inner("bias.schema").RECORDS.record_of(dataset, "later")
    assert record["settings"]["objects"]["fields"] == {}
    assert record["settings"]["labels"] is None


def test_a_delegated_run_that_fails_leaves_nothing_and_can_be_repeated(
    agree, registered, monkeypatch
):
    dataset = agree(24)
    job = inner("bias.job")
    summarise = job.BiasJob._summarise

    def fails(self, found):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(job.BiasJob, "_summarise", fails)
    run = execute(queue(dataset, model=registered))
    assert run.run_state == "failed"
    assert "out of memory" in str(run.result.error)
    dataset.reload()
    record = inner("bias.schema").RECORDS.record_of(dataset, "later")
    assert (record["status"], record["views"]) == ("failed", [])
    assert "later_verdict" not in dataset.get_field_schema()
    assert dataset.list_saved_views() == []
    # the heatmaps were finished; the same call again analyses their run
    monkeypatch.setattr(job.BiasJob, "_summarise", summarise)
    network = bias_common.Cues(**bias_common.BACKGROUND)
    summary = operator("find_background_bias")(
        dataset, "later", network, transforms=bias_common.to_tensor, classes=bias_common.CLASSES,
        progress=False, num_workers=0,
    )  # fmt: skip
    assert summary.tested == 24
    assert inner("bias.schema").RECORDS.record_of(dataset, "later")["status"] == "finished"
