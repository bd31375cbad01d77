"""A process that is killed, see :mod:`fault_harness.forks`: each line has ``do`` and its arguments.

A fork says ``go PID`` right before the call.
"""

import os

import fiftyone as fo
import torch
from bias_common import inner
from operators_common import operator

from fault_harness.cut import Cut
from fault_harness.forks import serve
from fault_harness.jobs import JOBS, make_dataset


def make(name, folder, job, output=None):
    """Makes the dataset of a job, with what there has to be before it."""
    make_dataset(name, folder)
    JOBS[job].prepare(fo.load_dataset(name), output)


def run(name, job, again=False, output=None, cut_at=None, cut_sent=False):
    """Runs a job to its end, if it is let; says how many messages it sent to the database."""
    dataset, cut = fo.load_dataset(name), Cut(cut_at, cut_sent)
    operator()  # the plugin is loaded before the call is timed
    print("go", os.getpid(), flush=True)
    with cut.applied():
        JOBS[job].call(dataset, again, output)
    return cut.count


def delete(name, key):
    """Deletes a run."""
    operator("delete_cam_run")(fo.load_dataset(name), key)


def delete_dataset(name):
    """Deletes the dataset."""
    fo.delete_dataset(name)


def delete_field(name, field):
    """Deletes a field of the dataset."""
    fo.load_dataset(name).delete_sample_field(field)


def clear_database():
    """What each job does before it begins."""
    operator()
    inner("runs.leftovers").clear_database()


COMMANDS = {
    f.__name__: f for f in (make, run, delete, delete_dataset, delete_field, clear_database)
}


def work(command):
    """Carries one command out."""
    torch.set_num_threads(1)
    do = command.pop("do")
    return COMMANDS[do](**command)


if __name__ == "__main__":
    serve(work)
