"""The form, filled in and run by clicking."""

import re

import fiftyone as fo
import numpy as np
import pytest

from examples.dataset import photo_sample
from tools.app_driver import wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

MODEL = "resnet18-imagenet-torch"


def run_of(dataset, key):
    """The record of a run as the database has it now, or None."""
    dataset.reload()
    return dataset.get_run_info(key).config if key in dataset.list_runs() else None


def wait_for_status(dataset, key, status, seconds):
    def reached():
        run = run_of(dataset, key)
        return run if run is not None and run.status == status else None

    return wait_for(reached, seconds, f"the run {key} is {status}", step=0.5)


def test_a_run_by_clicking(app, photo_dataset, plugin):
    dataset = photo_dataset(6)
    app.open_grid(dataset)
    plain = [app.wait_until_painted(app.thumbnail(i)) for i in range(6)]
    app.open_form()
    app.picture("form")
    assert app.execute_button.is_disabled(), "no model is chosen yet"

    app.choose("Model", MODEL)
    notice = app.form.get_by_text("1 heatmap field over 6 samples: resnet18_gradcam")
    notice.wait_for()

    bad_input(app)
    notice.wait_for()
    app.form.get_by_text("My choice", exact=True).click()
    app.choose("Which methods", "layercam")
    app.form.get_by_text(
        "2 heatmap fields over 6 samples: resnet18_gradcam, resnet18_layercam"
    ).wait_for()
    app.picture("filled")
    code = app.form.locator("code").inner_text()
    assert f"fo.load_dataset('{dataset.name}')" in code
    assert "methods=['gradcam', 'layercam']" in code
    compile(code, "form", "exec")

    app.execute_button.click()
    app.progress.get_by_text(re.compile(r"\d of 6|Finished")).wait_for()  # it may be quick
    app.picture("running")
    app.notification.get_by_text("resnet18: 6 samples explained in").wait_for()
    app.picture("done")
    assert (
        "resnet18_gradcam, resnet18_layercam, resnet18_prediction" in app.notification.inner_text()
    )
    app.page.get_by_role("button", name="Done").click()

    # seen without a reload: the fields, the first of them shown, and warm
    boxes = {
        f: app.page.locator(f"[data-cy='checkbox-resnet18_{f}'] input")
        for f in ("gradcam", "layercam")
    }
    boxes["gradcam"].wait_for(state="attached")
    assert boxes["gradcam"].is_checked()
    assert not boxes["layercam"].is_checked()
    for index, before in enumerate(plain):
        wait_for(
            lambda i=index, b=before: is_warmer(app, i, b), 90, f"heat is painted on photo {index}"
        )
    app.picture("grid")

    run = wait_for_status(dataset, "resnet18", "finished", 10)
    assert run.settings["model"] == MODEL
    assert run.settings["origin"] == "app"
    assert dataset.count("resnet18_gradcam.map") == dataset.count("resnet18_layercam.map") == 6
    assert dataset.load_run_results("resnet18").summary["done"] == 6


def bad_input(app):
    """What is wrong is said where it was typed, nothing can be run, and it can be put right."""
    app.field("Key").fill("bad-key")
    app.form.get_by_text(
        '"Key" must be a name of letters, digits and single underscores'
    ).wait_for()
    app.add("Layers", "layer9")
    app.form.get_by_text("the model has no layer 'layer9'; did you mean layer4").wait_for()
    app.picture("bad")
    assert app.execute_button.is_disabled()
    assert not app.form.get_by_text("heatmap field").count(), "nothing is promised"

    app.field("Key").fill("resnet18")
    app.form.locator(".MuiChip-root").filter(has_text="layer9").locator("svg").click()
    wait_for(app.execute_button.is_enabled, 90, "the form can be executed again")


def is_warmer(app, index, before):
    """Whether a photo of the grid has more red and less blue than before, and is not painted over."""
    after = app.wait_until_painted(app.thumbnail(index))
    if after.shape != before.shape:
        return False
    change = after.astype(float) - before
    changed = np.abs(change).max(-1) > 8
    red, _, blue = change[changed].mean(0) if changed.any() else (0, 0, 0)
    return changed.mean() > 0.05 and red - blue > 20


def test_a_run_that_fails_says_why(app, make_dataset, plugin, tmp_path):
    dataset = make_dataset(*(fo.Sample(filepath=str(tmp_path / f"{i}.jpg")) for i in range(3)))
    app.open_grid(dataset, pictures=False)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("1 heatmap field over 3 samples").wait_for()
    app.execute_button.click()
    app.notification.get_by_text("samples: none of the first 3 images can be used").wait_for()
    # the form is open again, filled in as it was
    app.form.get_by_text("1 heatmap field over 3 samples").wait_for()
    assert app.field("Model").input_value() == MODEL
    app.picture("failed_run")
    dataset.reload()
    assert dataset.list_runs() == []
    assert "resnet18_gradcam" not in dataset.get_field_schema()


def test_closing_the_tab_stops_a_run_and_keeps_what_is_done(app, make_dataset, photos, plugin):
    # 240 images: most of a minute
    dataset = make_dataset(*(photo_sample(photo) for photo in photos * 10))
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("1 heatmap field over 240 samples").wait_for()
    app.execute_button.click()
    app.progress.get_by_text(
        re.compile(r"of 240.* left, .* in all; closing this tab stops it")
    ).wait_for()
    app.picture("running")
    assert run_of(dataset, "resnet18").status == "running"
    app.page.close()

    wait_for_status(dataset, "resnet18", "interrupted", 30)
    stored = dataset.count("resnet18_gradcam.map")
    assert 0 < stored < 240
    assert dataset.load_run_results("resnet18").summary["done"] == stored
