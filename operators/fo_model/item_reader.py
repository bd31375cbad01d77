"""How FiftyOne's data loaders read an image for a model that explains."""

import operator
import pathlib

import fiftyone.operators as foo
import fiftyone.utils.torch as fout
import fiftyone.zoo.models as fozm
from fiftyone.plugins.context import PLUGIN_MODULE_PREFIX

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
        return operator.methodcaller("item_reader"), (_Opener(),), self.__dict__


class _Opener:
    """Stands for who makes readers: in another process, reading it there loads the plugin first.

    That is the operator, or where this is a source of the model zoo, the module of its root.
    """

    def __reduce__(self):
        if __name__.startswith(PLUGIN_MODULE_PREFIX):
            return foo.get_operator, ("@cam51/heatmaps/cam_model",)
        return fozm._import_zoo_module, (str(pathlib.Path(__file__).parents[2]),)
