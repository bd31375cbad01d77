"""How long a job will take, as its form says it: from what a run took here, long ones with a confirmation."""

import importlib

import fiftyone.operators.executor as executor
import pytest
from operators_common import PLUGIN, compute, operator

pytestmark = pytest.mark.usefixtures("plugin")
MODEL = "resnet18-imagenet-torch"


def resolve(dataset, name="compute_cams", app=False, **params):
    """The form as the App gets it, or a program."""
    request = {"dataset_name": dataset.name, "params": {"model": MODEL, **params}}
    if app:
        request.update(operator_uri=f"@cam51/heatmaps/{name}", prompt_id="one")
    ctx = executor.ExecutionContext(request, executor=executor.Executor())
    return operator(name).resolve_input(ctx).type.properties


def record_of(dataset, **changes):
    """The stored record of the run "run", after changes to it."""
    import fiftyone.core.odm as fod

    runs = fod.get_db_conn().runs
    query = {"_id": dataset._doc.runs["run"].id}
    if changes:
        runs.update_one(query, {"$set": {f"config.{k}": v for k, v in changes.items()}})
    return runs.find_one(query)["config"]


@pytest.fixture
def took(photo_dataset):
    """A function: four photos, and a run of the zoo's model of which a prediction took so many seconds."""
    dataset = photo_dataset(4)
    summary = compute(dataset, methods=["gradcam"])
    seconds = record_of(dataset)["progress"]["prediction_seconds"]
    assert seconds == pytest.approx(summary.seconds / 4)

    def change(seconds, **more):
        named = {"settings.model": MODEL, "progress.prediction_seconds": seconds, **more}
        record_of(dataset, **named)
        return dataset

    return change


def test_the_time_is_that_of_this_machines_last_run(took):
    dataset = took(10.0)
    notice = resolve(dataset)["notice"].view
    assert type(notice).__name__ == "Notice"
    assert notice.description == "Takes about 40 s on this machine."
    # one forward for all classes, and two more of another 6 looks each
    around = resolve(dataset, method_set="chosen", methods=["gradcam"], smooth=["aug"])
    assert around["notice"].view.description == "Takes about 5 min on this machine."
    took(10.0, host="another machine")
    assert "about 40 s" not in resolve(dataset)["notice"].view.description


def test_long_is_a_warning_and_very_long_is_confirmed(took):
    dataset = took(200.0)
    long = resolve(dataset, app=True)
    assert type(long["notice"].view).__name__ == "Warning"
    assert long["notice"].view.description.startswith("Takes about 13 min on this machine.")
    assert not any(p.invalid for p in long.values())

    many = {"method_set": "chosen", "methods": ["gradcam", "scorecam"]}
    form = resolve(dataset, app=True, **many)
    assert (
        "Takes about 9 days on this machine. Most of it: scorecam"
        in form["notice"].view.description
    )
    assert form["confirm_long"].view.label == "Yes, run this for about 9 days"
    assert form["confirm_long"].invalid
    confirmed = resolve(dataset, app=True, **many, confirm_long=True)
    assert not any(p.invalid for p in confirmed.values())
    # a program has nobody to ask, nor has a queue
    assert "confirm_long" not in resolve(dataset, **many)
    arguments = operator().arguments_of({**many, "model": MODEL, "confirm_long": True})
    assert "confirm_long" not in arguments


def test_other_jobs_say_minutes(took, monkeypatch):
    dataset = took(1.0)
    recorded = importlib.import_module(f"{PLUGIN}.operators.compute.recorded_model")
    monkeypatch.setattr(recorded, "unregistered", lambda settings: None)
    given = {"model": None, "cam_key": "run"}
    bias = resolve(dataset, "find_background_bias", **given)["notice"].view
    # 4 explained; each tested on 4 + 4 backgrounds, 4 more forwards and 6 with noise
    assert bias.label == "Explains 4 samples and tests 4 of them"
    assert (
        bias.description == f"Takes about {5 * round((4 + 4 * 12 + 6 * 4) / 5)} s on this machine."
    )
    region = resolve(dataset, "test_region", region="border", **given)["notice"].view
    assert region.label == "Tests 4 of 4 samples and writes nothing"
    assert region.description == "Takes about 40 s on this machine."
    compared = resolve(dataset, "compare_cams", cam_keys=["run"], metrics=["deletion"])[
        "notice"
    ].view
    assert compared.label == "Compares 3 maps on 4 of 4 samples"
    assert compared.description.startswith("Takes about ")


def test_a_network_that_never_ran_is_tried_without_weights(photo_dataset, monkeypatch):
    dataset = photo_dataset(1)
    cost = importlib.import_module(f"{PLUGIN}.operators.compute.cost")
    assert 0 < cost.seconds_per_prediction(MODEL) < 10
    assert cost.seconds_per_prediction(MODEL, "no device") is None
    said = resolve(dataset)["notice"].view.description
    assert said == "Takes a few seconds on this machine."
    # nothing is known of what a function returns before it was called
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", "examples.lite0:lite0_model")
    unknown = resolve(dataset, model="examples.lite0:lite0_model")["notice"].view
    assert unknown.description.startswith("How long it takes is known once")
