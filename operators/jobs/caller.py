"""Who calls an operator: a person in the App, or a program."""

# Of a request, what the App says of itself and a program has no reason to.
_OF_THE_APP = ("prompt_id", "selected_samples", "sample_selection_style", "extended", "filters")


def is_app(ctx):
    """Whether the App shows what an operator yields; FiftyOne drops what such an operator returns.

    Args:
        ctx: the execution context
    """
    request = ctx.request_params
    asked = "operator_uri" in request and any(name in request for name in _OF_THE_APP)
    return asked and not ctx.delegated
