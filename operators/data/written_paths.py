"""Where files may be written: one rule for every folder that a call names.

Who opens the App may be far away: without a rule a name such as ``report="/etc"`` would write anywhere on the
server. A path is judged as it really is, every link on the way followed first.
"""

import contextlib
import os
import uuid

import fiftyone as fo

#: the folder below which all calls write, from Python too; without it the App writes below FiftyOne's
#: default dataset folder, and Python anywhere
ROOT_VARIABLE = "CAM51_OUTPUT_ROOT"
PYTHON = "python"


def default_folder():
    """The folder below which files go where a call names none: the allowed one, else FiftyOne's for datasets."""
    return os.environ.get(ROOT_VARIABLE) or fo.config.default_dataset_dir


def allowed_folder(origin):
    """The folder that a call may write below; None where it may write anywhere.

    Args:
        origin: where the call came from: ``"python"`` or None, ``"app"``, ``"delegated"``, ``"background"``
    """
    anywhere = origin in (None, PYTHON) and not os.environ.get(ROOT_VARIABLE)
    return None if anywhere else os.path.abspath(os.path.expanduser(default_folder()))


def is_inside(path, folder):
    """Whether a path is a folder or lies below it, once all links are followed."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def confined(argument, path, origin):
    """Checks a folder that a call wants to write to.

    Args:
        argument: its name, for the message
        path: a folder, which need not exist; a relative one lies below the allowed folder, for calls that have
            one, else below the working directory
        origin: see :func:`allowed_folder`

    Returns:
        its absolute path

    Raises:
        ValueError: if it is no path, or leads out of what is allowed
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise ValueError(f"{argument} must be the path of a folder, got {path!r:.200}")
    folder, path = allowed_folder(origin), os.path.expanduser(os.fspath(path))
    if folder is None:
        return os.path.abspath(path)
    path = os.path.abspath(os.path.join(folder, path))
    if not is_inside(path, folder):
        real = os.path.realpath(path)
        leads = "" if real == path else f", which leads to {real!r}"
        whose = "" if os.environ.get(ROOT_VARIABLE) else "from the App "
        raise ValueError(
            f"{argument}: {whose}files are written below {folder!r} only, not to {path!r}{leads}; give a folder "
            f"below it, or set the server's environment variable {ROOT_VARIABLE}"
        )
    return path


@contextlib.contextmanager
def whole_file(path, **options):
    """Opens a text file to be written as a whole: it takes its place at the end.

    A link of that name is replaced, what it points to stays as it is; of an error nothing is left.

    Args:
        path: of the file
        **options: of ``open``
    """
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(part, "x", encoding="utf-8", **options) as file:
            yield file
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
