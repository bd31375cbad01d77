"""What the panel's tabs are built of: headings, notes, tables and charts."""

import fiftyone.operators.types as types

from . import charts, job_status

#: a panel in which tables become lists; the frame is the container
NARROW = "@container (max-width: 500px)"
#: of what is in a row: as wide as it needs to be
FREE = {"item": {"sx": {"width": "auto", "maxWidth": "100%"}}}


def note(panel, name, label, text, kind=types.Notice):
    """Adds a notice, or an error."""
    panel.view(name, kind(label=label, description=text))


def heading(panel, name, label, text=None):
    """Adds a heading."""
    panel.view(name, types.HeaderView(label=label, description=text))


def row(panel, name):
    """Adds a row of buttons and choices, of several lines where the panel is narrow."""
    sx = {"display": "flex", "flexWrap": "wrap", "alignItems": "center"}
    return panel.menu(name, gap=1, pad=0, componentsProps={"grid": {"sx": sx}})


def button(menu, name, label, icon, on_click, **options):
    """Adds a button as wide as its text to a :func:`row`."""
    menu.btn(name, label=label, icon=icon, on_click=on_click, componentsProps=FREE, **options)


def choice(menu, name, label, values, chosen, on_change):
    """Adds a choice to a :func:`row`.

    What it shows is the panel's state of its path, ``<row>.<name>``: the App takes the default only
    until somebody chose.

    Args:
        menu: of :func:`row`
        name: of the choice
        label: what it is about
        values: a dict value -> text
        chosen: the value that is chosen
        on_change: called when another is
    """
    view = types.DropdownView(label=label, componentsProps=FREE)
    for value, text in values.items():
        view.add_choice(value, label=text)
    menu.enum(name, view.values(), default=chosen, view=view, on_change=on_change)


def card(panel, name, text, pictured, label, on_click, params):
    """Adds a picture that can be clicked, a text beside it, and a button that does the same.

    Args:
        panel: where to add it
        name: of the card; the picture is the panel's data ``<name>.picture``
        text: as Markdown
        pictured: whether there is a picture
        label: of the button
        on_click: called by a click on the picture and on the button
        params: what it is called with
    """
    columns = f"{'auto ' * pictured}minmax(0, 1fr) auto"
    sx = {"gridTemplateColumns": columns, "alignItems": "center"}
    view = types.GridView(
        orientation="horizontal", gap=2, componentsProps={"grid": {"sx": sx}}
    )  # fmt: skip
    content = types.Object()
    panel.define_property(name, content, view=view)
    if pictured:
        content.img(
            "picture", on_click=on_click, params=params, width="76px", height="76px", alt_text=label
        )
    content.md(text, name="text")
    content.btn("do", label=label, on_click=on_click, params=params, variant="outlined")


def fold(panel, handlers, state, name, label, menu=None):
    """Adds a button that opens or closes a part of the page; returns whether it is open.

    Args:
        panel: where to add it
        handlers: the panel
        state: a dict; its ``open`` says of parts whether they are
        name: of the part
        label: what it is called
        menu (None): a :func:`row` that the button stands in; by default one of its own
    """
    opened = bool((state.get("open") or {}).get(name))
    button(
        menu or row(panel, f"{name}_fold"), f"{name}_button", label,
        "expand_less" if opened else "expand_more", handlers.on_fold, params={"part": name},
        icon_position="right",
    )  # fmt: skip
    return opened


def todo(panel, name, label, text, label_of_button, icon, on_click):
    """An empty state: what is missing, why one would want it, and the button that does it."""
    note(panel, name, label, text)
    menu = row(panel, f"{name}_menu")
    button(menu, f"{name}_button", label_of_button, icon, on_click, variant="contained")


def needs_bias(panel, handlers, state):
    """Says how to get findings where there are none; returns whether there are."""
    if state.get("bias_status") == "finished":
        return True
    if job_status.draw(panel, "bias_work", state.get("bias_work"), handlers.on_analysis_stop):
        return False
    todo(
        panel, "no_bias", "The background was not analysed yet",
        "Find background bias puts each object on other backgrounds and watches the score: "
        "which classes and samples rest on the surroundings.",
        "Find background bias", "wallpaper", handlers.on_examine,
    )  # fmt: skip
    return False


def accepted_text(state):
    """How many samples are left out, as they were accepted as context."""
    count = state.get("accepted") or 0
    return f" {count:,} samples accepted as context are left out." if count else ""


def table(panel, name, columns, help_of=None, rows=0, actions=(), **options):
    """A table; what it shows is the panel's data of the same name.

    Args:
        panel: where to add it
        name: of the data
        columns: a dict key -> label
        help_of (None): a dict key -> the tooltip of a column's cells
        rows (0): how many rows have tooltips
        actions (()): keyword arguments of row actions
        **options: of ``types.TableView``
    """
    # the App's own least width is more than a panel beside the grid has
    sx = {"minWidth": 0, NARROW: _as_list(list(columns.values()))}
    table = types.TableView(componentsProps={"table": {"sx": sx}}, **options)
    for number, (key, label) in enumerate(columns.items()):
        table.add_column(key, label=label)
        for row in range(rows if key in (help_of or {}) else 0):
            table.add_tooltip(row, number, help_of[key])
    for action in actions:
        table.add_row_action(**action)
    # the last step: what is added afterwards would not be seen
    panel.obj(name, view=table)


def _as_list(labels):
    """The styles of a table that is a list: each row a block, each number with its column's label."""
    styles = {
        "& thead": {"display": "none"},
        "& tr": {"display": "block", "borderBottom": "1px solid rgba(128, 128, 128, 0.3)", "py": 1},
        "& td": {"display": "inline-block", "border": 0, "py": 0.25, "overflowWrap": "anywhere"},
        "& td:first-of-type": {"fontWeight": "bold"},
        "& td:empty": {"display": "none"},
    }
    for number, label in enumerate(labels[1:], 2):
        if label:
            said = label.replace("\\", "\\\\").replace('"', '\\"')
            styles[f"& td:nth-of-type({number})::before"] = {
                "content": f'"{said}: "',
                "opacity": 0.7,
            }
    return styles


def plot(panel, name, layout, on_click):
    """A chart of a fixed height: left alone, its box would be as high as the panel."""
    height = layout["height"]
    panel.plot(
        name, layout=layout, config=charts.CONFIG, on_click=on_click,
        componentsProps={"item": {"sx": {"height": f"{height}px"}}},
    )  # fmt: skip
