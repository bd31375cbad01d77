"""The six jobs as users call them, on small pictures whose cues are known."""

import pathlib

import bias_common
import fiftyone as fo
from bias_common import BACKGROUND, CLASSES, Cues, to_tensor
from operators_common import operator

COUNT = 24
METHODS = ["hirescam", "gradcam"]
GIVEN = {"transforms": to_tensor, "classes": CLASSES, "progress": False, "num_workers": 0}
MIXED = {"red": 10.0, "blue": 40.0}


def make_dataset(name, folder):
    """A dataset of pictures; other processes open it."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples(bias_common.agreeing(folder, COUNT), progress=False)
    dataset.save_view("mine", dataset.limit(3))


def cams(dataset, again=False, key="run", network=MIXED, **arguments):
    """``compute_cams``; again: resumed."""
    return operator()(
        dataset, Cues(**network), methods=METHODS, layers="features", cam_key=key, heatmap_size=32,
        batch_size=4, resume=again, **GIVEN, **arguments,
    )  # fmt: skip


class Job:
    """One of the jobs.

    Args:
        call: ``call(dataset, again, output)``: the documented call; again after a fault
        runs: what there is before: keyword arguments of :func:`cams` of each run
        reads: the field that it reads, or writes, which another process may delete
    """

    def __init__(self, call, runs=(), reads="run_hirescam"):
        self.call, self.runs, self.reads = call, runs, reads

    def prepare(self, dataset, output):
        """Computes what there has to be before the job, ``output`` the folder of maps; None: database."""
        for arguments in self.runs:
            cams(dataset, **arguments, **stored_in(output))


def stored_in(output):
    """Where maps are stored, as arguments of ``compute_cams``."""
    return {} if output is None else {"storage": "disk", "output_dir": output}


def _compute(dataset, again, output):
    return cams(dataset, again, **stored_in(output))


def _compare_methods(dataset, again, output):
    return operator("compare_cams")(
        dataset, "run", Cues(**MIXED), metrics=["increase", "average_drop"], batch_size=4, overwrite=again,
        **GIVEN,
    )  # fmt: skip


def _compare_models(dataset, again, output):
    models = {"run": Cues(**MIXED), "other": Cues(**BACKGROUND)}
    return operator("compare_cams")(
        dataset, models=models, target="first", batch_size=4, overwrite=again, **GIVEN
    )


def _bias(dataset, again, output):
    return operator("find_background_bias")(
        dataset, "run", Cues(**MIXED), batch_size=4, overwrite=again, probe=8, donors=2, **GIVEN
    )


def _region(dataset, again, output):
    return operator("test_region")(
        dataset, "ground_truth", "run", Cues(**MIXED), batch_size=4, probe=8, donors=2, **GIVEN
    )


def _drafts(dataset, again, output):
    return operator("heat_to_detections")(
        dataset, "run", field="run_hirescam", overwrite=again, progress=False
    )


RUN = {"key": "run"}
OTHER = {"key": "other", "network": BACKGROUND}
JOBS = {
    "compute": Job(_compute),
    "compare methods": Job(_compare_methods, [RUN]),
    "compare models": Job(_compare_models, [RUN, OTHER]),
    "bias": Job(_bias, [RUN]),
    "region": Job(_region, [RUN]),
    "drafts": Job(_drafts, [RUN]),
}
