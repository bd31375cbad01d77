"""Which images of a run must be looked at again: blocks in which batches form as the first time."""

from ..data.loader import Block
from ..runs.resume import rows_of


def plan_blocks(dataset, rows, lists, todo, size):
    """Cuts a run into blocks, and leaves out those with nothing to do.

    Batches form within a block only. So a block that is looked at again makes the same batches as the
    first time, and the same numbers to the last bit: those depend a little on a batch's size.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        rows: ``(id, filepath)`` of this call's samples
        lists: the samples that the run covers, as :func:`covered` returns them
        todo: ids of the samples that lack something
        size: rows of a block

    Returns:
        a list of :class:`Block`
    """
    chunks = [part[i : i + size] for part in lists for i in range(0, len(part), size)]
    chunks = [chunk for chunk in chunks if any(i in todo for i in chunk)]
    paths = dict(rows)
    paths.update(_paths(dataset, [i for chunk in chunks for i in chunk if i not in paths]))
    return [_block(chunk, paths, todo) for chunk in chunks]


def _block(chunk, paths, todo):
    rows = [(i, paths[i]) for i in chunk if i in paths]  # the others were deleted
    wanted = {i for i, _ in rows if i in todo}
    return Block(rows, None if len(wanted) == len(rows) else wanted)


def _paths(dataset, ids):
    """``(id, filepath)`` of samples that are not in this call's view."""
    rows = rows_of(dataset, ids, {"filepath": True})
    return ((str(row["_id"]), row["filepath"]) for row in rows)
