"""How FiftyOne's data loaders read an image for a model that explains."""

import fiftyone.operators as foo
import fiftyone.utils.torch as fout

from ..data.loader import load_item


class ItemReader(fout.GetItem):
    """Reads a sample's file as the loader of ``compute_cams`` does: upright, with its place in the input.

    It can be sent to a process that does not have the plugin yet: where processes are not forked, the data
    loader's workers begin as empty interpreters.

    Args:
        transforms: maps a PIL image to a tensor, or a path where they take one
        geometry: the :class:`~operators.data.geometry.TransformGeometry` of the transforms
        field_mapping (None): see ``fiftyone.utils.torch.GetItem``
    """

    def __init__(self, transforms, geometry, field_mapping=None):
        self._transforms, self._geometry = transforms, geometry
        super().__init__(field_mapping=field_mapping)

    @property
    def required_keys(self):
        """What is needed of a sample."""
        return ["id", "filepath"]

    def __call__(self, d):
        """Returns the :class:`~operators.data.loader.Item` of a sample.

        Raises:
            OSError: if the file cannot be read
            ValueError: if the transforms do not fit it
        """
        try:
            return load_item(d["id"], d["filepath"], self._transforms, self._geometry)
        except Exception as error:
            # FiftyOne's message about a batch does not say which image it was
            raise ValueError(f"{d['filepath']}: {error}") from error

    def __reduce__(self):
        return getattr, (_Opener(), "empty_reader"), self.__dict__


class _Opener:
    """Stands for the operator: reading it in another process loads the plugin there first."""

    def __reduce__(self):
        return foo.get_operator, ("@cam51/heatmaps/cam_model",)
