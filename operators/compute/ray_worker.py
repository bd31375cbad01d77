"""What Ray starts on a node: it finds the plugin there and hands over to :mod:`operators.compute.shards`.

Ray sends this class as code, since a node knows nothing of the plugin yet: so it uses nothing but the
standard library before the plugin is loaded, and nothing of it is imported at the top.
"""


class Worker:
    """One worker: an actor, which Ray starts again where it dies.

    Args:
        plugin: ``name``, ``package`` and ``folder`` of the plugin in the process that sent this, and the
            ``path`` that it imports from
        environment: of FiftyOne, with the address of the database
        task: the pickled ``shards.Task``
        model: a model's name, or the pickled model
    """

    def __init__(self, plugin, environment, task, model):
        # Errors in here would be told as the actor's death; they are raised by the first call instead.
        self._plugin, self._environment, self._given = plugin, environment, (task, model)
        self._worker = None

    def ready(self):
        """Loads the plugin, the model and the dataset."""
        self._loaded()

    def run(self, number, blocks, batch_size):
        """Computes a shard; see ``shards.ShardWorker.run``."""
        return self._loaded().run(number, blocks, batch_size)

    def _loaded(self):
        if self._worker is None:
            import importlib
            import pickle
            import socket
            import sys

            sys.path += [p for p in self._plugin["path"] if p not in sys.path]
            self._connect()
            package = self._import_plugin()
            shards = importlib.import_module(f"{package}.operators.compute.shards")
            try:
                given = [v if isinstance(v, str) else pickle.loads(v) for v in self._given]
            except ImportError as error:
                raise RuntimeError(
                    f"the Ray node {socket.gethostname()} cannot import what the model, transforms, methods or "
                    f"targets are made of ({error}); install it on all nodes"
                ) from error
            self._worker = shards.ShardWorker(*given)
            self._given = None
        return self._worker

    def _connect(self):
        """FiftyOne reads its configuration when it is imported."""
        import os

        os.environ.update(self._environment)
        import fiftyone as fo

        name = self._environment["FIFTYONE_DATABASE_NAME"]
        if fo.config.database_name != name:
            raise RuntimeError(
                f"this Ray worker has imported FiftyOne with the database {fo.config.database_name!r}, "
                f"the run is in {name!r}"
            )

    def _import_plugin(self):
        """Loads the plugin as FiftyOne does, under the name that it has in the driver."""
        import os
        import socket
        import sys

        import fiftyone.plugins as fop
        from fiftyone.plugins.context import PluginContext

        package = self._plugin["package"]
        if f"{package}.operators" in sys.modules:
            return package
        manifest = os.path.join(self._plugin["folder"], "fiftyone.yml")
        if not os.path.isfile(manifest):
            try:
                manifest = os.path.join(fop.find_plugin(self._plugin["name"]), "fiftyone.yml")
            except ValueError as error:
                raise RuntimeError(
                    f"the Ray node {socket.gethostname()} has the plugin {self._plugin['name']} neither in "
                    f"{self._plugin['folder']!r} nor among FiftyOne's plugins; install it there"
                ) from error
        context = PluginContext(fop.PluginDefinition.from_disk(manifest))
        context.register_all()
        if context.errors:
            raise RuntimeError(f"the plugin cannot be loaded: {context.errors[0]}")
        return package
