"""Drives the App in a headless browser: for the tests of ``tests/app`` and for the pictures of the docs.

The App's server is a process of its own, as it is for a user who calls ``fo.launch_app()``: operators
run there. Nothing here sleeps for a fixed time; everything waits for a condition.
"""

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from pathlib import Path

LABEL = "Compute class activation maps"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: as root, which containers run as, Chromium has none. The others keep it off the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip
# Long: the server imports torch when a form names its first model.
SLOW = 90_000
#: what the buttons that send a form are called
SEND = re.compile(
    "^(Apply|Compare|Compute|Delete|Draw boxes|Execute|Explain|Rename|Resume|Run again|Show|Stop|Test)$"
)
# contexts of the browser in which the advertisement was seen
_DISMISSED = weakref.WeakSet()


def find_browser():
    """Returns the path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def free_port():
    """Returns a port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def plant_resnet18(folder):
    """Makes the zoo's ResNet-18 loadable without a network, with random weights.

    The zoo only looks for the first file; torchvision reads the second.

    Args:
        folder: a folder for both

    Returns:
        the environment variables under which FiftyOne finds them
    """
    import torch
    import torchvision

    folder = Path(folder)
    checkpoints = folder / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(51)
        weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, checkpoints / "resnet18-f37072fd.pth")
    (folder / "resnet18-5c106cde.pth").write_bytes(b"only looked for")
    return {"FIFTYONE_MODEL_ZOO_DIR": str(folder), "TORCH_HOME": str(folder / "torch")}


@contextlib.contextmanager
def app_server(log, env=None):
    """Runs the App's server, and ends it with everything that it started.

    Args:
        log: a file for what the server prints
        env (None): environment variables beside this process's own

    Yields:
        the server's URL
    """
    import fiftyone.constants as foc

    port = free_port()
    with open(log, "w", encoding="utf-8") as output:
        server = subprocess.Popen(
            [sys.executable, "main.py", "--port", str(port), "--address", "127.0.0.1"],
            cwd=foc.SERVER_DIR,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: _answers(url, server, log), 120, f"the App's server at {url}")
            yield url
        finally:
            end_process(server)


def _answers(url, server, log):
    if server.poll() is not None:
        tail = Path(log).read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"the App's server ended with code {server.returncode}:\n{tail}")
    try:
        with urllib.request.urlopen(f"{url}/fiftyone", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end_process(process):
    """Ends a process and its children."""
    import psutil

    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def wait_for(condition, seconds, what, step=0.1):
    """Polls until a condition is true and returns its value.

    Raises:
        TimeoutError: naming ``what``, if it stays false
    """
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: still not so after {seconds} s")
        time.sleep(step)


@contextlib.contextmanager
def browser_context(folder, size=(1400, 900), scale=1):
    """Opens a headless browser.

    Args:
        folder: of the profile
        size: width and height of the window
        scale (1): pixels of a picture per pixel of the window

    Yields:
        playwright's context
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder),
            executable_path=find_browser(),
            headless=True,
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
            args=list(FLAGS),
        )
        try:
            yield context
        finally:
            context.close()


def pixels(png):
    """Returns a screenshot as an (h, w, 3) uint8 array."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


class App:
    """The App in one page of the browser.

    Args:
        page: playwright's page
        url: the server's URL
        pictures (None): a folder that :meth:`picture` writes to
    """

    def __init__(self, page, url, pictures=None):
        page.set_default_timeout(SLOW)
        self.page = page
        # on a busy machine the advertisement comes later than it is waited for, maybe below an open sample
        page.add_locator_handler(self._advertisement, lambda button: button.dispatch_event("click"))
        self._url = url
        self._pictures = pictures

    def picture(self, name):
        """Keeps a screenshot of the window under a name."""
        if self._pictures is not None:
            self.page.screenshot(path=str(Path(self._pictures) / f"{name}.png"))

    def open_grid(self, dataset, pictures=True):
        """Opens a dataset's grid and waits until its pictures are painted.

        Args:
            dataset: the dataset
            pictures (True): whether there are any to wait for
        """
        from playwright.sync_api import TimeoutError as Timeout

        self.page.goto(f"{self._url}/datasets/{dataset.name}")
        counted = self.page.get_by_text(f"{len(dataset):,} samples", exact=True)
        try:
            counted.wait_for(timeout=SLOW / 2)
        except Timeout:  # a browser's first page has stayed white on a busy machine
            self.page.reload()
            counted.wait_for()
        self._dismiss_advertisement()
        if pictures:
            self.wait_until_painted(self.thumbnail(0))

    @property
    def _advertisement(self):
        return self.page.locator(".MuiPopover-root").get_by_text("Dismiss", exact=True)

    def _dismiss_advertisement(self):
        """It covers a part of the grid, once per profile, and comes up before the first picture."""
        from playwright.sync_api import TimeoutError as Timeout

        if self.page.context in _DISMISSED:
            return
        with contextlib.suppress(Timeout):
            self._advertisement.click(timeout=2000)
            _DISMISSED.add(self.page.context)

    def open_sample(self, dataset, sample_id):
        """Opens a sample and waits until it is painted; returns its picture."""
        self.page.goto(f"{self._url}/datasets/{dataset.name}?id={sample_id}")
        picture = self.page.locator("[data-cy=modal] [data-cy=modal-looker-container] canvas").first
        self.wait_until_painted(picture)
        return picture

    def thumbnail(self, index):
        """The picture of a sample of the grid."""
        return self.page.locator("[data-cy=fo-grid] [data-cy=looker] canvas").nth(index)

    def wait_until_painted(self, picture, seconds=60):
        """Waits until a picture is there and stays; returns its pixels.

        Args:
            picture: a locator
            seconds (60): how long at most
        """
        picture.wait_for()
        last = []

        def settled():
            now = pixels(picture.screenshot(animations="disabled"))
            last.append(now)
            same = len(last) > 2 and all(
                p.shape == now.shape and (p == now).all() for p in last[-3:-1]
            )
            # an empty canvas has the dark colour of the page
            return same and now.max() > 60

        wait_for(settled, seconds, "the picture is painted", step=0.3)
        return last[-1]

    def open_form(self):
        """Opens the form of ``compute_cams``."""
        self.open_operator(LABEL)
        self.form.get_by_text("Model", exact=True).wait_for()

    def open_operator(self, label):
        """Chooses an operator from the list that the backquote key opens."""
        self.page.keyboard.press("`")
        self.page.locator("[data-cy=operators-browser-search]").fill(label)
        choices = self.page.locator("[data-cy=operators-browser]").get_by_text(label, exact=True)
        choices.first.click()

    @property
    def form(self):
        """The open form."""
        return self.page.get_by_role("dialog").filter(has_text=LABEL)

    def field(self, label):
        """What is typed into, by its label in the form."""
        group = self.form.locator(f'xpath=.//*[normalize-space(text())="{label}"]')
        return group.locator("xpath=following::input[1]")

    def choose(self, label, value):
        """Types a value into a field with a list, and takes the list's entry."""
        field = self.field(label)
        field.click()
        field.fill(value)
        self.page.get_by_role("option", name=re.compile(rf"^{re.escape(value)}\b")).first.click()

    def add(self, label, value):
        """Types a value that need not be in the list."""
        field = self.field(label)
        field.click()
        field.fill(value)
        field.press("Enter")

    @property
    def execute_button(self):
        """The button that runs the form."""
        return self.form.get_by_role("button", name=SEND)

    @property
    def notification(self):
        """The message at the window's lower edge."""
        return self.page.locator("[role=alert]").filter(has_text=re.compile(r"\S")).last

    @property
    def progress(self):
        """The dialog with the bar."""
        return self.page.get_by_role("dialog").filter(has=self.page.get_by_role("progressbar"))
