"""The views behind the panel's numbers: what a click shows in the grid."""

from fiftyone import ViewField as F

from ..bias.schema import field_names
from . import clusters_tab

#: verdicts that count as resting on the background, and on the object
BACKGROUND = ("relies on background", "relies on background, not visible in heat")
OBJECT = ("relies on object", "heat outside, harmless")


def without_accepted(run):
    """The dataset without the samples that the user accepted as context."""
    accepted = clusters_tab.accepted_ids(run)
    return run.dataset.exclude([str(i) for i in accepted]) if accepted else run.dataset.view()


def class_view(run, label):
    """The samples of a class, the most dependent first.

    Args:
        run: the :class:`~operators.runs.run.Run`
        label: the class: a sample counts for its label, and without one for the explained class

    Returns:
        a :class:`fiftyone.core.view.DatasetView`
    """
    _, dependence, bias = field_names(run.key)
    own, explained = F(f"{bias}.label"), F(f"{bias}.explained")
    mine = (own == label) | ((own == None) & (explained == label))  # noqa: E711 - a query
    return without_accepted(run).match(mine).sort_by(dependence, reverse=True)


def explained_view(run, label):
    """The samples whose heatmaps of the run explain a class; None for any."""
    if label is None:
        return run.dataset.exists(run.heatmap_fields[0])
    guess, target = f"{run.key}_prediction", F(f"{run.heatmap_fields[0]}.target")
    mine = target == label
    if run.dataset.get_field(guess) is not None:
        mine = mine | ((target == None) & (F(f"{guess}.label") == label))  # noqa: E711 - a query
    return run.dataset.match(mine)


def verdict_view(run, verdict):
    """The samples with a verdict, the most dependent first."""
    field, dependence, _ = field_names(run.key)
    view = without_accepted(run).match(F(field) == verdict)
    return view.sort_by(dependence, reverse=True)


def evidence_view(run, right, background):
    """A cell of the table of right and wrong against object and background.

    Args:
        run: the :class:`~operators.runs.run.Run`
        right: whether the prediction is right
        background: whether the score rests on the background
    """
    field, dependence, bias = field_names(run.key)
    verdicts = list(BACKGROUND if background else OBJECT)
    mine = F(field).is_in(verdicts) & (F(f"{bias}.correct") == bool(right))
    return without_accepted(run).match(mine).sort_by(dependence, reverse=True)


def suspicion_view(run, low, high):
    """The tested samples whose heat alone gives a chance of dependence in [low, high)."""
    _, dependence, bias = field_names(run.key)
    value = F(f"{bias}.suspicion")
    below = (value <= high) if high >= 1 else (value < high)
    mine = (F(f"{bias}.tested") == True) & (value >= low) & below  # noqa: E712 - a query
    return without_accepted(run).match(mine).sort_by(dependence, reverse=True)


def chosen_view(dataset, ids):
    """Samples by their ids, in their order; those that are gone are left out."""
    return dataset.select(list(ids), ordered=True)
