"""Checkpoints: read as plain tensors, so that nothing in a file is run, and put into a network."""

import importlib
import importlib.util
import os

_STATES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def plain_tensors(path):
    """Reads a checkpoint as plain tensors: nothing in it is run.

    Args:
        path: a ``.safetensors`` file, or one of ``torch.save`` that holds tensors only; a training
            checkpoint with an entry such as ``state_dict`` will do

    Returns:
        ``{name: tensor}``

    Raises:
        ValueError: if it is not there, or holds more than tensors
    """
    import pickle

    import torch

    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise ValueError(f"checkpoint: there is no file {path!r} on this machine")
    if path.endswith(".safetensors"):
        return _stripped(_safetensors(path))
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"checkpoint: {path!r} is refused, as it holds more than plain tensors; save the weights alone, "
            "with torch.save(model.state_dict(), path) or safetensors"
        ) from error
    for name in _STATES:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
            break
    if not isinstance(value, dict) or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise ValueError(f"checkpoint: {path!r} holds no state dict: names with tensors")
    return _stripped(value)


def _safetensors(path):
    if importlib.util.find_spec("safetensors") is None:
        raise ValueError(
            f"checkpoint: {path!r} needs a package that is not installed here: pip install safetensors"
        )
    library = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except library.SafetensorError as error:
        raise ValueError(f"checkpoint: {path!r} cannot be read: {error}") from error


def _stripped(state):
    """Names without what DataParallel, torch.compile and Lightning put before all of them."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def filled(build, state, head, classes):
    """A network with a checkpoint's tensors, all of them, and as many outputs as it has."""
    import torch

    count = state.get(f"{head}.weight")
    outputs = len(classes) if classes else (None if count is None else len(count))
    module = build(outputs)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"checkpoint: its tensors do not fit this architecture with {outputs} outputs: {text}"
        ) from error
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"checkpoint: {name} is not finite")
    return module.eval()
