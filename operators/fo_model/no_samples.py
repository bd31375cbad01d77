"""What targets are looked up in where a model is made without samples: nothing is there."""


class NoSamples:
    """A collection without fields, runs and evaluations.

    Attributes:
        asked: whether somebody looked for a field
    """

    def __init__(self):
        self.asked = False

    @property
    def _dataset(self):
        return self

    @property
    def _root_dataset(self):
        return self

    def get_field(self, path):
        """None, as there is no such field."""
        self.asked = True

    def get_field_schema(self):
        """No fields."""
        self.asked = True
        return {}

    def list_runs(self):
        """No runs."""
        return []

    def list_evaluations(self):
        """No evaluations."""
        self.asked = True
        return []

    def __getitem__(self, sample_id):
        self.asked = True
        raise KeyError(sample_id)
