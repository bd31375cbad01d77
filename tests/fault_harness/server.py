"""A MongoDB server that can be killed, started again, and stopped for a while."""

import signal
import subprocess
import time

import pymongo
from pymongo.errors import PyMongoError

from tools.app_driver import free_port
from tools.ensure_mongod import find_mongod


class OwnServer:
    """A mongod that can be taken away.

    Args:
        folder: where its data are; it must exist
    """

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None

    def start(self, wait=False):
        """Starts it; ``wait`` until it answers."""
        command = [
            str(find_mongod()), "--dbpath", str(self.folder), "--port", str(self.port),
            "--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        while wait and not self._answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"mongod ended with {self.process.returncode}")
            time.sleep(0.05)

    def _answers(self):
        try:
            with self.client(serverSelectionTimeoutMS=500) as client:
                client.admin.command("ping")
            return True
        except PyMongoError:
            return False

    def client(self, **options):
        """A connection to it."""
        return pymongo.MongoClient("127.0.0.1", self.port, **options)

    def kill(self):
        """Kills it, as a power failure would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self, seconds):
        """Stops it for some seconds: connections stay open, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)
