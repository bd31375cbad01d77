"""Parameters that several jobs have, checked."""


def check_positive(name, value, low=1, high=None):
    """Raises a ValueError unless a value is an integer from ``low`` to ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < low
        or (high and value > high)
    ):
        limits = f"between {low} and {high}" if high else f"of at least {low}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")


def check_choice(name, value, choices):
    """Raises a ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is unknown; choose from {', '.join(choices)}")
