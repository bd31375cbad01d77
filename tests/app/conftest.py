"""The App in a headless browser, on a server of its own with the plugin and random weights."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from examples.dataset import load_photos
from tools.app_driver import (
    BROWSERS,
    App,
    app_server,
    browser_context,
    find_browser,
    plant_resnet18,
)

_CALL = pytest.StashKey()
_TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """Where screenshots are kept: the folder that ARTEFACTS names, else a temporary one."""
    folder = os.environ.get("ARTEFACTS")
    folder = Path(folder) if folder else tmp_path_factory.mktemp("app")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The 24 photos at one size: for each that there is, layers are measured once."""
    folder = tmp_path_factory.mktemp("photos")
    found = []
    for photo in load_photos():
        path = folder / Path(photo["path"]).name
        Image.open(photo["path"]).convert("RGB").resize((512, 342)).save(path, quality=90)
        found.append({**photo, "path": str(path)})
    return found


@pytest.fixture(scope="session")
def app_url(database, artefacts, tmp_path_factory):
    """The App's server on the session's database; its operators run in its own process."""
    if find_browser() is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    weights = plant_resnet18(tmp_path_factory.mktemp("zoo"))
    # so that it can load the networks by hand that tests register
    path = os.pathsep.join(str(folder) for folder in (_TESTS, _TESTS.parent))
    with app_server(artefacts / "server.log", {**weights, "PYTHONPATH": path}) as url:
        yield url


# Not for the session: while playwright is open an event loop runs in this thread, which would
# change what other tests see.
@pytest.fixture(scope="module")
def browser(app_url, tmp_path_factory):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with browser_context(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def app(browser, app_url, artefacts, request):
    """The App in a page of its own; a picture is kept of where a test failed."""
    folder = artefacts / re.sub(r"\W+", "_", request.node.name)
    folder.mkdir(exist_ok=True)
    app = App(browser.new_page(), app_url, folder)
    yield app
    if app.page.is_closed():
        return
    report = request.node.stash.get(_CALL, None)
    if report is not None and report.failed:
        app.picture("failed")
    app.page.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_CALL] = report
    return report
