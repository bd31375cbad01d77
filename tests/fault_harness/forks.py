"""A process that forks once per line of its input, so that imports are paid once; the forks may be killed."""

import json
import os
import sys
import traceback


def serve(work):
    """Hands each line to a fork until the input ends.

    A fork says ``done`` with what the work returned, or ``error``; ``ended STATUS`` is said when it is gone.

    Args:
        work: takes what a line has, which is JSON
    """
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                print("done", work(json.loads(line)), flush=True)
            except BaseException as error:
                traceback.print_exc()
                print("error", f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("ended", status, flush=True)
