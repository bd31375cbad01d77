"""The repository as a source of FiftyOne's model zoo, and an operator that applies what it has."""

import shutil

from processes_common import ROOT

NAME, BASE = "cam51/heatmaps-torch", "resnet18-imagenet-torch"
#: calls the zoo as the operator of that name in FiftyOne's plugin @voxel51/zoo does
APPLY = """
import fiftyone.operators as foo
import fiftyone.operators.types as types
import fiftyone.zoo as foz


class ApplyZooModel(foo.Operator):
    @property
    def config(self):
        return foo.OperatorConfig(
            name="apply_zoo_model", label="Apply zoo model", dynamic=True, allow_delegated_execution=True,
            allow_immediate_execution=True,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        names = types.AutocompleteView()
        for name in foz.list_zoo_models(tags="heatmaps"):
            names.add_choice(name, label=name)
        inputs.enum("model", names.values(), required=True, label="Model", view=names)
        if ctx.params.get("model"):
            prop = foz.get_zoo_model(ctx.params["model"]).resolve_input(ctx)
            if prop is not None:
                inputs.add_property("remote_params", prop)
            inputs.str("label_field", required=True, label="Label field")
        return types.Property(inputs, view=types.View(label="Apply zoo model"))

    def execute(self, ctx):
        zoo_model = foz.get_zoo_model(ctx.params["model"])
        kwargs = ctx.params.get("remote_params", {})
        zoo_model.parse_parameters(ctx, kwargs)
        model = foz.load_zoo_model(ctx.params["model"], **kwargs)
        workers = None if ctx.delegated else 0
        ctx.target_view().apply_model(model, label_field=ctx.params["label_field"], batch_size=2, num_workers=workers)
        if not ctx.delegated:
            ctx.trigger("reload_dataset")


def register(plugin):
    plugin.register(ApplyZooModel)
"""


def pack(folder):
    """The repository's code as an archive, as a host of repositories would give it."""
    source = folder / "source" / "heatmaps"
    source.mkdir(parents=True)
    for name in ("manifest.json", "__init__.py", "fiftyone.yml"):
        shutil.copy(ROOT / name, source / name)
    for room in ("cam_core", "operators"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.make_archive(str(folder / "heatmaps"), "zip", folder / "source")


def plant_operator(folder):
    """Makes a plugin of one operator, ``@tests/zoo/apply_zoo_model``."""
    folder.mkdir()
    (folder / "fiftyone.yml").write_text('name: "@tests/zoo"\noperators:\n  - apply_zoo_model\n')
    (folder / "__init__.py").write_text(APPLY)
