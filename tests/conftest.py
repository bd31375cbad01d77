"""What all tests share: one real MongoDB for those that ask, FiftyOne kept to temporary folders.

The environment is set when this file is imported, so a test module may import FiftyOne at its top:
FiftyOne reads its configuration then and connects at first use only. A test that uses a database
asks for ``database``, or for a fixture that does; the others start nothing.
"""

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from examples.dataset import load_photos, photo_sample
from tools.ensure_mongod import HELP, WHEEL, NoMongod, find_mongod

ROOT = Path(__file__).resolve().parents[1]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _isolate():
    """Points FiftyOne to temporary folders and to a server that is started when asked for."""
    # a second import would give processes started later another database than this one has
    if os.environ.get("CAM51_TESTS_OF") == str(os.getpid()):
        raise ImportError(
            "conftest is pytest's own; import what is needed from where it is defined"
        )
    home = Path(tempfile.mkdtemp(prefix="cam51-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    plugins = home / "plugins"
    plugins.mkdir()
    # by a link: the name of the checkout's folder does not matter
    (plugins / "heatmaps").symlink_to(ROOT, target_is_directory=True)
    os.environ.update(
        CAM51_TESTS_OF=str(os.getpid()),
        FIFTYONE_CONFIG_PATH=str(home / "config.json"),
        FIFTYONE_APP_CONFIG_PATH=str(home / "app_config.json"),
        FIFTYONE_PLUGINS_DIR=str(plugins),
        FIFTYONE_MODEL_ZOO_DIR=str(home / "model_zoo"),
        FIFTYONE_DATASET_ZOO_DIR=str(home / "dataset_zoo"),
        FIFTYONE_DEFAULT_DATASET_DIR=str(home / "datasets"),
        FIFTYONE_DATABASE_DIR=str(home / "mongo"),
        FIFTYONE_DATABASE_NAME=f"cam51-tests-{uuid.uuid4().hex[:8]}",
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_DO_NOT_TRACK="1",
        FIFTYONE_SHOW_PROGRESS_BARS="false",
        MPLBACKEND="Agg",
    )
    return home


def _share_cores():
    """Gives each of pytest-xdist's processes its part of the cores; PyTorch takes all else."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


_share_cores()
HOME = _isolate()
# A server that the caller names is used as it is, with a database of our own. What pytest-xdist's
# first process named for itself is passed on to the others: each has a server of its own.
OWN_SERVER = os.environ.get("FIFTYONE_DATABASE_URI") == os.environ.get("CAM51_TESTS_URI")
if OWN_SERVER:
    os.environ["CAM51_TESTS_URI"] = f"mongodb://127.0.0.1:{_free_port()}"
    os.environ["FIFTYONE_DATABASE_URI"] = os.environ["CAM51_TESTS_URI"]


@pytest.fixture(scope="session")
def database():
    """One MongoDB server for the whole session; yields its URI."""
    uri = os.environ["FIFTYONE_DATABASE_URI"]
    server = _start_mongod(int(uri.rpartition(":")[2])) if OWN_SERVER else None
    _wait_for(uri, server)
    yield uri
    _drop_database(uri)


def _start_mongod(port):
    try:
        mongod = find_mongod()
    except NoMongod as error:
        pytest.fail(str(error), pytrace=False)

    if mongod is None:
        # not skipped: green without the database would say nothing about the plugin
        pytest.fail(f"{HELP.format(wheel=WHEEL)}\n`make test` sees to it.", pytrace=False)

    folder = HOME / "mongo"
    folder.mkdir()
    options = {
        "dbpath": folder,
        "port": port,
        "bind_ip": "127.0.0.1",
        "wiredTigerCacheSizeGB": 0.25,
        "logpath": HOME / "mongod.log",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    server = subprocess.Popen(
        [str(mongod), *flags, "--nounixsocket", "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    # not in the fixture's teardown: FiftyOne asks the database once more when Python ends, and
    # would wait 30 s for a server that is gone. Registered before FiftyOne connects, this runs
    # after it.
    atexit.register(_stop, server)
    return server


def _wait_for(uri, server, seconds=60):
    import pymongo
    from pymongo.errors import PyMongoError

    end = time.monotonic() + seconds
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=500) as client:
        while True:
            try:
                client.admin.command("ping")
            except PyMongoError as error:
                dead = server is not None and server.poll() is not None
                if dead or time.monotonic() > end:
                    pytest.fail(f"MongoDB at {uri} does not answer: {error}\n{_log_tail()}")
                time.sleep(0.1)
            else:
                return


def _log_tail():
    log = HOME / "mongod.log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def _drop_database(uri):
    import pymongo

    with pymongo.MongoClient(uri) as client:
        client.drop_database(os.environ["FIFTYONE_DATABASE_NAME"])


def _stop(server):
    if server.poll() is not None:
        return

    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def plugin(database):
    """The plugin as FiftyOne's own loader makes it; its errors are raised here, not logged."""
    from fiftyone.plugins import PluginDefinition
    from fiftyone.plugins.context import PluginContext

    context = PluginContext(PluginDefinition.from_disk(str(ROOT / "fiftyone.yml")))
    context.register_all()
    assert not context.errors, "\n".join(context.errors)
    return context


@pytest.fixture
def make_dataset(database):
    """A function that makes datasets with unique names; they are deleted after the test."""
    import fiftyone as fo

    names = []

    def make(*samples, name=None):
        dataset = fo.Dataset(name or f"cam51-{uuid.uuid4().hex[:12]}")
        names.append(dataset.name)
        if samples:
            dataset.add_samples(list(samples), progress=False)
        return dataset

    yield make
    for name in names:
        with contextlib.suppress(ValueError):  # the test deleted it itself
            fo.delete_dataset(name)


@pytest.fixture
def dataset(make_dataset):
    """An empty dataset with a unique name, deleted after the test."""
    return make_dataset()


@pytest.fixture(scope="session")
def photos():
    """The 24 photos: dicts with ``path, subject, imagenet_names, boxes_xyxy, ...``."""
    return load_photos()


@pytest.fixture
def photo_dataset(make_dataset, photos):
    """A function: a dataset of the first ``n`` photos, with boxes in ``ground_truth``."""

    def make(n=4):
        return make_dataset(*(photo_sample(photo) for photo in photos[:n]))

    return make


@pytest.fixture
def agree(make_dataset, tmp_path):
    """A function: a dataset of pictures on which background and object agree."""
    from bias_common import agreeing

    def make(count=48, **fields):
        return make_dataset(*agreeing(tmp_path, count, **fields))

    return make
