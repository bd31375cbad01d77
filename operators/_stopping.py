"""What works on a CAM run, and asking it to stop: its computation, its comparison, its examination."""

from . import _at_work, _lease, _record

#: what can be at work on a run -> the part of a record that says so; the computation has the record itself
KINDS = {"computation": None, "comparison": "compare", "examination": "bias"}


def at_work(dataset, key):
    """What works on a run at this moment.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a list of pairs (one of ``KINDS``, key of the run whose record says so): a comparison of several
        runs is recorded with the first of them
    """
    found = []
    if _record.is_alive(_record.config_of(dataset, key)):
        found.append(("computation", key))
    for kind, part in KINDS.items():
        jobs = _at_work.jobs_on(dataset, key, part) if part is not None else ()
        found += [(kind, other) for other, job in jobs if _at_work.is_alive(dataset, job)]
    return found


def ask_to_stop(dataset, key, what=None):
    """Asks what works on a run to stop, wherever it runs.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        what (None): one of ``KINDS``; None for whatever is at work

    Returns:
        a list of what was asked, of ``KINDS``

    Raises:
        ValueError: if there is no such run, or nothing of the kind is at work on it
    """
    if what is not None and what not in KINDS:
        raise ValueError(f"what: {what!r} is unknown; choose from {', '.join(KINDS)}")
    status = _record.status_of(dataset, key)
    chosen = [pair for pair in at_work(dataset, key) if what in (None, pair[0])]
    if not chosen and what in (None, "computation"):
        raise ValueError(f"cam_key: the run {key!r} is not at work, it is {status}")
    if not chosen:
        raise ValueError(f"cam_key: no {what} of the run {key!r} is at work")
    for kind, owner in chosen:
        if KINDS[kind] is None:
            _lease.ask_to_stop(dataset, owner)
        else:
            _at_work.ask_to_stop(dataset, owner, KINDS[kind])
    return [kind for kind, _ in chosen]
