"""What the App and a queue are told of comparisons, analyses and regions: from the first moment."""

import pytest
from bias_common import inner
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")

NAMES = ["compare_cams", "find_background_bias", "test_region"]


def context(dataset, delegated=False, **params):
    import fiftyone.operators.executor as executor

    request = {"dataset_name": dataset.name, "params": params, "delegated": delegated}
    request.update(operator_uri="@cam51/heatmaps/any", prompt_id="1")  # as the App asks
    ctx = executor.ExecutionContext(request, executor=executor.Executor())
    assert ctx.delegated is delegated
    return ctx


@pytest.mark.parametrize("name", NAMES)
def test_something_is_said_before_the_model_is_loaded(name, photo_dataset, monkeypatch):
    built = []

    def build(*arguments, **options):
        built.append(name)
        raise ValueError("model: nothing is built here")

    monkeypatch.setattr(type(operator(name)), "make_job", build)
    messages = operator(name).messages(context(photo_dataset(2)))
    first = next(messages).body
    assert first.operator_uri.endswith("set_progress")
    label = "loading the model and looking at the samples; closing this tab stops it"
    assert first.params == {"label": label, "progress": 0.0}
    assert built == []
    second = next(messages).body
    assert second.operator_uri.endswith("notify")
    # the form of a comparison has no field for the model
    said = "model" if name == "compare_cams" else "Model"
    assert second.params["message"] == f"{said}: nothing is built here"
    third = next(messages).body  # the dialog stays after the message has gone
    assert third.operator_uri.endswith("set_progress")
    assert third.params["label"] == f"Not started: {said}: nothing is built here"
    with pytest.raises(ValueError, match="nothing is built here"):
        next(messages)


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_is_told_too(name, photo_dataset, monkeypatch):
    ctx, told = context(photo_dataset(2), delegated=True), []
    monkeypatch.setattr(ctx, "set_progress", lambda **progress: told.append(progress))
    next(operator(name).messages(ctx))
    assert told == [{"progress": 0.0, "label": "loading the model and looking at the samples"}]


class Asked:
    """A job that is asked to stop after its first step."""

    def planned(self):
        return {"measuring": 4}

    def run(self):
        yield inner("jobs.base").Phase("measuring", 1, 4, 0.0)
        raise inner("runs.lease").Stopped("the comparison of 'run' was asked to stop")


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("delegated", [False, True])
def test_who_waits_is_told_that_it_was_stopped(name, delegated, photo_dataset, monkeypatch):
    monkeypatch.setattr(type(operator(name)), "make_job", lambda *_: Asked())
    messages = operator(name).messages(context(photo_dataset(2), delegated=delegated))
    if delegated:
        with pytest.raises(inner("runs.lease").Stopped, match="asked to stop"):
            list(messages)
        return
    bodies = [m.body for m in messages]
    bars = [b.params["label"] for b in bodies if b.operator_uri.endswith("set_progress")]
    assert bars[-1] == "The comparison of 'run' was asked to stop"
    assert bodies[-1].operator_uri.endswith("notify")
    assert bodies[-1].params["message"] == "The comparison of 'run' was asked to stop"


class Failing(Asked):
    """A job that fails after its first step, as one whose dataset is deleted."""

    def run(self):
        yield inner("jobs.base").Phase("measuring", 1, 4, 0.0)
        raise RuntimeError("the run 'run' was deleted meanwhile")


@pytest.mark.parametrize("name", NAMES)
def test_the_dialog_of_a_job_that_fails_says_why(name, photo_dataset, monkeypatch):
    monkeypatch.setattr(type(operator(name)), "make_job", lambda *_: Failing())
    messages, bodies = operator(name).messages(context(photo_dataset(2))), []
    with pytest.raises(RuntimeError):
        while True:
            bodies.append(next(messages).body)
    bars = [b.params for b in bodies if b.operator_uri.endswith("set_progress")]
    assert bars[-1] == {"label": "Failed: the run 'run' was deleted meanwhile", "progress": 0.25}
    (said,) = [b.params for b in bodies if b.operator_uri.endswith("notify")]
    assert (said["message"], said["variant"]) == ("the run 'run' was deleted meanwhile", "error")


def test_a_run_says_it_before_its_model_is_loaded_too(photo_dataset, monkeypatch):
    def build(self, samples, arguments, origin):
        raise ValueError(f"model: nothing is built here, in the {origin}")

    monkeypatch.setattr(type(operator("compute_cams")), "make_job", build)
    messages = operator("compute_cams").messages(context(photo_dataset(2)))
    first = next(messages).body
    assert first.operator_uri.endswith("set_progress")
    assert first.params["label"].startswith("loading the model and looking at the samples")
    assert next(messages).body.params["message"] == "Model: nothing is built here, in the app"
