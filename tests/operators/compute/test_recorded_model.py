"""What a run was told about its model holds in every follow-up, and what contradicts it is refused."""

from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
import torchvision.transforms as T
from bias_common import inner
from multi_label_common import CLASSES, TAG, Films, films, see
from operators_common import operator
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")
QUIET = {"progress": False, "num_workers": 0}


class Heads(torch.nn.Module):
    """Two heads under names; the scores of the film are at ``"film"``."""

    def __init__(self):
        super().__init__()
        self.net = Films()

    def forward(self, images):
        found = self.net(images)
        return {"film": found, "other": torch.cat([found, found], 1)}


def pick(outputs):
    """Where the scores are."""
    return outputs["film"]


def pick_another(outputs):
    """Somewhere else."""
    return outputs["other"][:, 3:]


def read(path):
    """A reader of files: the grey of a picture, (1, h, w)."""
    return see(Image.open(path))


@pytest.fixture
def shelf(make_dataset, tmp_path):
    """A dataset of films."""
    return make_dataset(*films(tmp_path, 24))


@pytest.fixture
def registered():
    """The multi-label network under a name that the App can load."""
    own = inner("models.registered")
    Path(own.path()).unlink(missing_ok=True)
    operator("register_model")(
        "films", "multi_label_common:network", multi_label=True, threshold=0.7
    )
    yield "films"
    Path(own.path()).unlink(missing_ok=True)


def run(dataset, net, **given):
    """A CAM run."""
    given = {"classes": CLASSES, "cam_key": "run", **QUIET, **given}
    if "preprocess" not in given:
        given.setdefault("transforms", see)
    return operator()(dataset, net, **given)


def follow(name, dataset, net=None, **given):
    """Calls a follow-up of the run."""
    sample_id = dataset.first().id
    arguments = {
        "find_background_bias": (
            (dataset, "run", net),
            {**QUIET, "noise": False, "views": False, "overwrite": True},
        ),
        "test_region": ((dataset, TAG, "run", net), QUIET),
        "compare_cams": (
            (dataset, "run", net),
            {**QUIET, "metrics": ["deletion"], "overwrite": True},
        ),
        "explain_sample": ((dataset, sample_id, "run", net), {"donors": 0}),
        "show_peers": ((dataset, sample_id, "run", net), {}),
        "rerun_cams": ((dataset, "run", "again"), {"model": net, "progress": False}),
    }
    places, named = arguments[name]
    return operator(name)(*places, **{**named, **given})


EVERY = [
    "find_background_bias", "test_region", "compare_cams", "explain_sample", "show_peers", "rerun_cams",
]  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_options_and_classes_are_taken_from_the_record(shelf, name):
    run(shelf, Heads().eval(), output="film", multi_label=True, threshold=0.6)
    follow(name, shelf, Heads().eval(), transforms=see)
    if name == "rerun_cams":
        used = shelf.get_run_info("again").config.settings
        assert (used["output"], used["multi_label"], used["threshold"]) == ("film", True, 0.6)
        assert used["class_names"] == CLASSES


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multi_label": False}, "multi_label: the run 'run' was computed with True.* says False"),
        ({"threshold": 0.2}, "threshold: the run 'run' was computed with 0.6.* says 0.2"),
        ({"output": "other"}, "output: the run 'run' was computed with 'film'.* says 'other'"),
        ({"task": "regression"}, "task: the run 'run' was computed with None.* says 'regression'"),
    ],
)
def test_contradictions_are_refused_with_both_values(shelf, name, given, message):
    run(shelf, Heads().eval(), output="film", multi_label=True, threshold=0.6)
    with pytest.raises(ValueError, match=message):
        follow(name, shelf, Heads().eval(), transforms=see, **given)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "rerun_cams"])
def test_other_classes_and_transforms_are_refused(shelf, name):
    run(shelf, Films().eval(), multi_label=True)
    with pytest.raises(
        ValueError, match=r"classes: the run 'run' .* 3 names \(left, tag, right\).*a, b, c"
    ):
        follow(name, shelf, Films().eval(), transforms=see, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="transforms: the run 'run' was computed with .*see"):
        follow(
            name,
            shelf,
            Films().eval(),
            transforms=T.Compose([T.Grayscale(), T.ToTensor(), T.Normalize(0, 2)]),
        )


@pytest.mark.parametrize("name", EVERY)
def test_a_function_has_to_be_given_again(shelf, name):
    run(shelf, Heads().eval(), output=pick)
    with pytest.raises(ValueError, match="output: .*<.*pick>.*give output= again"):
        follow(name, shelf, Heads().eval(), transforms=see)
    with pytest.raises(ValueError, match="output: .*pick>.*pick_another>"):
        follow(name, shelf, Heads().eval(), transforms=see, output=pick_another)
    follow(name, shelf, Heads().eval(), transforms=see, output=pick)
    with pytest.raises(ValueError, match=r"again, with transforms= and output="):
        follow(name, shelf)


@pytest.mark.parametrize("name", EVERY)
def test_preprocess(shelf, name):
    run(shelf, Films().eval(), preprocess=read, multi_label=True)
    with pytest.raises(ValueError, match="preprocess: .*<function read>.*give preprocess= again"):
        follow(name, shelf, Films().eval())
    with pytest.raises(
        ValueError, match=r"with preprocess=<function read>, which reads.*give preprocess="
    ):
        follow(name, shelf, Films().eval(), transforms=see)
    follow(name, shelf, Films().eval(), preprocess=read)
    if name != "rerun_cams":
        follow(name, shelf, Films().eval(), transforms=read)  # it is known that it takes a path


def test_an_unknown_option_is_no_silent_one(shelf):
    run(shelf, Films().eval(), multi_label=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'multilabel'.*'multi_label'"):
        follow("test_region", shelf, Films().eval(), transforms=see, multilabel=True)
    with pytest.raises(ValueError, match="threshold must be a probability"):
        follow("test_region", shelf, Films().eval(), transforms=see, threshold=3)


def test_an_adapted_model_keeps_its_own_options(shelf):
    from fiftyone.plugins.orgs.cam51.heatmaps.cam_core import adapt

    adapted = adapt(Films().eval(), multi_label=True, threshold=0.7)
    run(shelf, adapted)
    used = shelf.get_run_info("run").config.settings
    assert (used["multi_label"], used["threshold"]) == (True, 0.7)
    high = operator("explain_sample")(shelf, shelf.first().id, "run", adapted, transforms=see)
    # and the plain network is adapted as that was
    plain = operator("explain_sample")(
        shelf, shelf.first().id, "run", Films().eval(), transforms=see
    )
    assert plain.probability == pytest.approx(high.probability)
    with pytest.raises(ValueError, match="threshold: 0.7 is asked for, and the model.*has 0.5"):
        follow("test_region", shelf, adapt(Films().eval(), multi_label=True), transforms=see)


# from the App, where nobody gives anything again


def test_app_follow_ups_of_a_registered_network(shelf, registered):
    operator()(shelf, registered, cam_key="run", **QUIET)
    used = shelf.get_run_info("run").config.settings
    assert (used["multi_label"], used["threshold"]) == (True, 0.7)
    # what a name is told later does not change what the run was told
    operator("register_model")("films", "multi_label_common:network", overwrite=True)
    sample = next(s for s in shelf if s.shown == ["left", "right"])
    high = torch.tensor(12 * 0.8 - 5).sigmoid().item()
    for name, params in (
        ("find_background_bias", {"cam_key": "run", "objects": "body"}),
        ("compare_cams", {"cam_keys": ["run"], "metrics": ["deletion"]}),
    ):
        foo.execute_operator(
            f"@cam51/heatmaps/{name}", ctx={"view": shelf.view(), "params": params}
        )
    shelf.reload()
    scores = [s.run_bias.probability for s in shelf if s.shown]
    assert scores == pytest.approx([high] * len(scores), abs=0.02)
    ctx = {"dataset": shelf, "current_sample": sample.id, "params": {"cam_key": "run", "donors": 0}}
    found = foo.execute_operator("@cam51/heatmaps/explain_sample", ctx=ctx)
    assert "(99 %;" in found.result["sentence"]
    foo.execute_operator(
        "@cam51/heatmaps/rerun_cams",
        ctx={"view": shelf.view(), "params": {"cam_key": "run", "new_key": "again"}},
    )
    assert isinstance(shelf.first().again_prediction, fo.Classifications)
    assert shelf.get_run_info("again").config.settings["threshold"] == 0.7


def test_app_does_not_offer_what_only_python_can_give(shelf, registered):
    operator()(shelf, registered, transforms=lambda p: see(p) * 0.5, cam_key="run", **QUIET)
    used = shelf.get_run_info("run").config.settings
    assert not inner("compute.recorded_model").is_reloadable(used)
    assert "transforms= from Python" in inner("compute.recorded_model").unregistered(used)
    with pytest.raises(ValueError, match="transforms: .*give transforms= again"):
        follow("test_region", shelf)


def test_what_is_queued_keeps_the_options():
    forms = inner("forms.bias")
    given = dict.fromkeys(("objects", "labels"), "auto")
    sent = forms.params_of({**given, "cam_key": "new", "model": "films", "multi_label": True})
    assert forms.arguments_of(sent)["multi_label"] is True
    with pytest.raises(ValueError, match="output cannot be sent"):
        forms.params_of({**given, "cam_key": "new", "model": "films", "output": pick})


def test_functions_without_a_name_are_told_apart(shelf):
    run(shelf, Heads().eval(), output=lambda outputs: outputs["film"])
    with pytest.raises(ValueError, match="output: the run 'run' was computed with"):
        follow(
            "test_region", shelf, Heads().eval(), transforms=see,
            output=lambda outputs: outputs["other"][:, :3],
        )  # fmt: skip
    follow(
        "test_region", shelf, Heads().eval(), transforms=see, output=lambda outputs: outputs["film"]
    )


def test_the_form_offers_missed_labels_of_a_registered_multi_label_network(shelf, registered):
    forms = inner("forms.compute")
    from fiftyone.operators.executor import ExecutionContext

    def fields(**params):
        params = {"model": "films", **params}
        ctx = ExecutionContext(request_params={"dataset_name": shelf.name, "params": params})
        return forms.compute_cams_form(ctx).type.properties

    offered = [c.value for c in fields()["targets"].view.choices]
    assert "missed_label" in offered
    assert "label_field" in fields(targets="missed_label")
    given = forms.arguments_of(
        {"model": "films", "targets": "missed_label", "label_field": "truth"}
    )
    assert given["targets"] == {"missed": "truth"}
    params = {"model": "films", "cam_key": "app", "targets": "missed_label", "label_field": "truth"}
    ctx = {"view": shelf.view(), "params": params}
    foo.execute_operator("@cam51/heatmaps/compute_cams", ctx=ctx)
    assert set(shelf.distinct("app_gradcam_missed1.status")) == {"correct", "no_label"}
