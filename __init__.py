"""``@cam51/heatmaps``: class activation maps for FiftyOne datasets.

FiftyOne executes this file at every look-up of an operator, and pytest collects the checkout's root
as a package: so nothing is imported until :func:`register` is called.
"""


def register(plugin):
    """Registers the plugin's operators and panels.

    Args:
        plugin: the :class:`fiftyone.plugins.context.PluginContext` to register with
    """
    from .operators.registry import OPERATORS, PANELS

    for cls in (*OPERATORS, *PANELS):
        plugin.register(cls)
