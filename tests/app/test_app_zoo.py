"""*Apply zoo model* with this repository as a source, by clicking."""

import json
import shutil

import pytest
from zoo_source_common import BASE, NAME, pack, plant_operator

from tools.app_driver import App, app_server, find_browser, plant_resnet18, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]


class ZooApp(App):
    """The App with the form of the zoo."""

    @property
    def form(self):
        """The open form."""
        return self.page.get_by_role("dialog").filter(has_text="Apply zoo model")

    def choose(self, label, value):
        """Types a value and takes the list's entry; a name with a slash is none that a pattern can have."""
        field = self.field(label)
        field.click()
        field.fill(value)
        self.page.get_by_role("option", name=value, exact=True).first.click()


@pytest.fixture
def app(database, browser, artefacts, tmp_path):
    """The App on a server whose zoo has the source, and which has an operator that applies its models."""
    if find_browser() is None:
        pytest.skip("no browser is installed")
    weights = plant_resnet18(tmp_path / "models")
    pack(tmp_path)
    source = tmp_path / "models" / "cam51-heatmaps"
    shutil.copytree(tmp_path / "source" / "heatmaps", source)
    manifest = json.loads((source / "manifest.json").read_text())
    # as registering leaves it
    (source / "manifest.json").write_text(
        json.dumps({**manifest, "url": "http://127.0.0.1/heatmaps.zip"})
    )
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    plant_operator(plugins / "apply")
    environ = {**weights, "FIFTYONE_PLUGINS_DIR": str(plugins)}
    with app_server(artefacts / "zoo_server.log", environ) as url:
        yield ZooApp(browser.new_page(), url, artefacts)


def test_a_zoo_model_that_explains_is_applied_by_clicking(app, photo_dataset):
    dataset = photo_dataset(2)
    app.open_grid(dataset)
    app.open_operator("Apply zoo model")
    app.choose("Model", NAME)
    app.form.get_by_text("Model to explain", exact=True).wait_for()
    app.choose("Model to explain", BASE)
    app.choose("Methods", "layercam")
    app.form.get_by_text("layercam", exact=True).first.wait_for()
    app.picture("methods")
    app.form.locator("input").last.fill("heat")
    app.picture("zoo_form")
    app.execute_button.click()

    def stored():
        dataset.reload()
        return "heat" in dataset.get_field_schema() and dataset.count("heat.map") == 2

    wait_for(stored, 120, "the heatmaps are stored", step=0.5)
    assert dataset.values("heat.method") == ["layercam"] * 2
    app.page.locator("[data-cy='checkbox-heat'] input").wait_for(state="attached")
    app.picture("zoo_done")
