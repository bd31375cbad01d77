"""Drives the App in a headless browser: for the tests of ``tests/app`` and for the README's pictures.

The App's server is a process of its own, as it is for a person who calls ``fo.launch_app()``: operators
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
from pathlib import Path

LABEL = "Compute class activation maps"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: as root, which containers run as, Chromium has none. The others keep it off the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip
# Once and long: the server imports torch when the form is opened for the first time.
SLOW = 120_000


def find_browser():
    """Returns the path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def free_port():
    """Returns a port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
def browser_context(folder, size=(1400, 900)):
    """Opens a headless browser with an empty profile.

    Args:
        folder: of the profile
        size: width and height of the window

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
            device_scale_factor=1,
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
