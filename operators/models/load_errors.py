"""What libraries raise when they load a model, as messages that say what to do."""

import contextlib


@contextlib.contextmanager
def readable_errors(name):
    """Turns what libraries raise when they load a model into a ValueError that says what to do.

    Args:
        name: what the user calls the model
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(("model:", "classes:")):
            raise
        text = _shortened(error)
        if _is_offline(error):
            raise ValueError(
                f"model: the weights of {name!r} are not on this machine and could not be downloaded. "
                "Load the model once where there is a network and copy the files, or register a model whose "
                f"weights are here with register_model. ({type(error).__name__}: {text})"
            ) from error
        if isinstance(error, ImportError):
            raise ValueError(
                f"model: {name!r} needs a package that is missing here: {text}"
            ) from error
        raise ValueError(
            f"model: {name!r} could not be loaded: {type(error).__name__}: {text}"
        ) from error


_LONGEST = 160


def _shortened(error):
    """A library's message on one line, ended at a word."""
    text = " ".join(str(error).split())
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST].rpartition(' ')[0].rstrip(' ,;:(')} ..."


_OFFLINE = (
    "internet", "connect", "name resolution", "resolve", "download", "offline", "not a local folder",
    "timed out", "max retries",
)  # fmt: skip


def _is_offline(error):
    """Whether an exception, or one that it came from, tells of a failed download."""
    while error is not None:
        named = "Connection" in type(error).__name__ or "URLError" in type(error).__name__
        if named or isinstance(error, (ConnectionError, TimeoutError)):
            return True
        told = isinstance(error, (OSError, RuntimeError)) and not isinstance(error, PermissionError)
        if told and any(word in str(error).lower() for word in _OFFLINE):
            return True
        error = error.__cause__ or error.__context__
    return False
