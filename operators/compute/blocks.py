"""Which images of a run must be looked at again: blocks in which batches form as the first time."""

from ..data.frame_rows import frame_rows
from ..data.loader import Block
from ..data.rows import Row
from ..runs.resume import rows_of


def plan_blocks(dataset, rows, lists, todo, size, whole=None):
    """Cuts a run into blocks, and leaves out those with nothing to do.

    Batches form within a block only. So a block that is looked at again makes the same batches as the
    first time, and the same numbers to the last bit: those depend a little on a batch's size.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        rows: the :class:`~operators.data.rows.Row` of this call's samples
        lists: the samples that the run covers, as :func:`covered` returns them
        todo: ids of the samples that lack something
        size: rows of a block
        whole (None): of objects of samples, a function that returns ``{sample id: rows}`` of samples

    Returns:
        a list of :class:`Block`
    """
    chunks = [part[i : i + size] for part in lists for i in range(0, len(part), size)]
    chunks = [chunk for chunk in chunks if any(i in todo for i in chunk)]
    if whole is not None:
        return _blocks_of_objects(chunks, whole([i for chunk in chunks for i in chunk]), todo)
    known = {row.id: row for row in rows}
    known.update(
        _elsewhere(dataset, {i for chunk in chunks for i in chunk if i not in known}, rows)
    )
    return [_block(chunk, known, todo) for chunk in chunks]


def _blocks_of_objects(chunks, objects, todo):
    """Blocks of all objects of some samples each."""
    blocks = []
    for chunk in chunks:
        rows = [row for i in chunk for row in objects.get(i, ())]
        wanted = {row.id for row in rows if row.sample in todo}
        if wanted:
            blocks.append(Block(rows, None if len(wanted) == len(rows) else wanted))
    return blocks


def _block(chunk, known, todo):
    rows = [known[i] for i in chunk if i in known]  # the others were deleted
    wanted = {row.id for row in rows if row.id in todo}
    return Block(rows, None if len(wanted) == len(rows) else wanted)


def _elsewhere(dataset, ids, rows):
    """``{id: row}`` of samples that are not in this call's view."""
    if ids and rows[0].frame is not None:  # such a frame need not be in the dataset yet
        return {row.id: row for row in frame_rows(dataset.view()) if row.id in ids}
    found = rows_of(dataset, ids, {"filepath": True})
    return {(i := str(row["_id"])): Row(i, row["filepath"]) for row in found}
