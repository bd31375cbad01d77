"""What every operator says of its risk, which FiftyOne's guardrails go by."""

import pytest
from fiftyone.operators.types import RiskLevel

#: they read only
READERS = {
    "get_cam_run_info", "list_cam_runs", "list_layers", "list_models", "load_cam_view", "open_cam_panel",
    "open_sample_panel", "show_heatmap_look",
    "reopen_compute_cams", "show_heatmaps", "show_peers", "test_region", "free_model", "cam_model",
}  # fmt: skip
#: they delete what a user may not get back
DELETERS = {"delete_cam_run", "remove_model"}


def test_every_operator_states_its_risk(plugin):
    wanted = {name: RiskLevel.LOW for name in READERS} | dict.fromkeys(DELETERS, RiskLevel.HIGH)
    said = {operator.name: operator.risk_level for operator in plugin.instances}
    assert said == {name: wanted.get(name, RiskLevel.MEDIUM) for name in said}
    assert set(said) > READERS | DELETERS


@pytest.mark.parametrize("name", ["compute_cams", "delete_cam_run", "list_cam_runs"])
def test_the_app_is_told(plugin, name):
    (operator,) = (one for one in plugin.instances if one.name == name)
    assert operator.config.to_json()["risk_level"] == operator.risk_level.value
