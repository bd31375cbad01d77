"""Saved views that jobs write: each has a mark of ours, by which it is known when nobody lists it any more."""

from fiftyone.core.odm.views import SavedViewDocument

from . import record

# FiftyOne passes over an entry that it does not know, and leaves it out of a copy.
_MARK = "cam51"


def save(dataset, name, view, description):
    """Saves a view, in the place of one of the same name.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        name: of the view
        view: a :class:`fiftyone.core.view.DatasetView`
        description: a sentence
    """
    dataset.save_view(name, view, description=description, overwrite=True)
    record.db().views.update_many({"_id": {"$in": ids_of(dataset, [name])}}, {"$set": {_MARK: 1}})


def ids_of(dataset, names):
    """The saved views of some names, also those that a process left that died before it listed them."""
    query = {"_dataset_id": dataset._doc.id, "name": {"$in": list(names)}}
    return [row["_id"] for row in record.db().views.find(query, {"_id": True})]


def delete(dataset, names):
    """Takes views off the dataset's list first: FiftyOne takes a list that names lost ones for corrupt.

    Its own deletion looks for a view in the list without the lost ones, and deletes another one.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        names: of the views
    """
    views, db = ids_of(dataset, names), record.db()
    listed = _listed(dataset)
    there = {row["_id"] for row in db.views.find({"_id": {"$in": listed}}, {"_id": True})}
    gone = [*views, *(number for number in listed if number not in there)]
    db.datasets.update_one({"_id": dataset._doc.id}, {"$pull": {"saved_views": {"$in": gone}}})
    for view in SavedViewDocument.objects(id__in=views):
        view.delete()
    dataset._doc.reload("saved_views")


def rename(dataset, moves):
    """Renames views: ``{old: new}``."""
    for old, new in moves.items():
        if dataset.has_saved_view(old):
            dataset.update_saved_view_info(old, {"name": new})


def delete_unlisted(dataset, names):
    """Deletes those of some views that their dataset does not list; returns how many."""
    listed = _listed(dataset)
    left = [number for number in ids_of(dataset, names) if number not in listed]
    return _delete_documents(left)


def delete_of_nobody():
    """Deletes views of ours whose dataset is gone; returns how many.

    Who deletes a dataset deletes the views that it had when they opened it, and none that a job saved
    since then.
    """
    db = record.db()
    marked = list(db.views.find({_MARK: {"$exists": True}}, {"_dataset_id": True}))
    wanted = list({row["_dataset_id"] for row in marked})
    there = {row["_id"] for row in db.datasets.find({"_id": {"$in": wanted}}, {"_id": True})}
    return _delete_documents([row["_id"] for row in marked if row["_dataset_id"] not in there])


def _listed(dataset):
    found = record.db().datasets.find_one({"_id": dataset._doc.id}, {"saved_views": True})
    return (found or {}).get("saved_views") or []


def _delete_documents(numbers):
    if not numbers:
        return 0
    return record.db().views.delete_many({"_id": {"$in": numbers}}).deleted_count
