"""Which class of a segmentation network is the background: the one that is called so, or said to be."""


def with_background(adapt, options, classes, adapted_already=False):
    """Adapts a network; its background is what was said, else the class that is called so.

    Args:
        adapt: maps the options to a ``cam_core.ExplainableModel``
        options: of ``cam_core.adapt``; ``background`` may be an index, a name, or False for none
        classes: class names, or None
        adapted_already (False): whether the network came with an adapter, which knows it

    Returns:
        the ``cam_core.ExplainableModel``

    Raises:
        ValueError: if there is no class of that name, or two classes are called the background
    """
    from ...cam_core.adapters.segmentation import background_index

    adapted = adapt(resolved(options, classes))
    known = hasattr(adapted, "background") and "segmentation" in getattr(adapted, "family", "")
    if known and classes is not None and "background" not in options and not adapted_already:
        adapted.background = background_index(classes)
    return adapted


def resolved(options, classes):
    """Options whose ``background`` is no name any more.

    Args:
        options: of ``cam_core.adapt``, whose ``background`` may be a class name
        classes: class names, or None

    Returns:
        a dict

    Raises:
        ValueError: if there is no class of that name
    """
    name = options.get("background")
    if not isinstance(name, str):
        return dict(options)
    from ...cam_core import ClassNames

    if classes is None:
        raise ValueError(
            f"background: {name!r} needs class names; pass classes=, or give the index of the class"
        )
    names = ClassNames(classes)
    hits = names.find(name)
    if len(hits) != 1:
        near = names.near(name)
        some = f"; near: {', '.join(near)}" if near and not hits else ""
        raise ValueError(
            f"background: {names.several(name) or f'the model has no class {name!r}'}{some}; give a class's "
            "name or index, or False for none"
        )
    return {**options, "background": hits[0]}


def check_background(loaded, options):
    """Raises a ValueError if a background was said that a model has not.

    Args:
        loaded: the :class:`LoadedModel`
        options: those that were given
    """
    if "background" not in options:
        return
    said = resolved(options, loaded.classes)["background"]
    wanted = None if said is False else said
    if "segmentation" not in (loaded.kind or "") or loaded.adapted.background != wanted:
        raise ValueError(
            f"background: has no effect on this {loaded.kind or 'model'}; leave it out"
        )
