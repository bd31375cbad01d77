"""The plugin's operators and panels: the only package that imports FiftyOne.

Importing this package imports nothing else, and :mod:`operators.registry` no torch: FiftyOne does so
whenever the App starts or an operator is looked up. Every operator imports what it computes with inside
the function that needs it.
"""

import os

#: the plugin's folder, and its package: FiftyOne gives it a name of its own
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = __name__.rpartition(".")[0]
