"""The App with the panel open, driven by clicks."""

from tools.app_driver import App, wait_for

#: samples of the dataset that the panel's tests make
COUNT = 160


class PanelApp(App):
    """The App with the panel beside the grid."""

    def open_panel(self, text):
        """Opens it by its button above the grid and waits for a text in it."""
        self.page.locator("img[src*='icon-dark.svg'], img[src*='icon-light.svg']").first.click()
        self.panel.get_by_text(text, exact=True).first.wait_for()

    def tab(self, name, text):
        """Opens a tab and waits for a text in it."""
        self.panel.get_by_role("button", name=name, exact=True).click()
        self.panel.get_by_text(text, exact=True).first.wait_for()

    @property
    def panel(self):
        """What the panel shows."""
        return self.page.locator("[data-cy='panel-content-cam_panel'], body").last

    def wait_for_samples(self, count):
        """Waits until the grid shows so many samples."""
        self.page.get_by_text(f"{count} sample{'s' * (count != 1)}", exact=True).wait_for()

    def bars(self, number):
        """The bars of a chart, by its place in the panel."""
        self.page.locator(".js-plotly-plot").nth(number).locator(".points path").first.wait_for()
        return self.page.locator(".js-plotly-plot").nth(number).locator(".points path")

    def hit(self, mark):
        """Clicks a mark of a chart: what Plotly listens to lies above it."""
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        self.point(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def point(self, x, y):
        """Moves there, waits until the chart says what is there, and clicks.

        A click before that does nothing: Plotly hands on what it found under the mouse.
        """
        said = self.page.locator(".js-plotly-plot .hoverlayer > *")
        self.page.mouse.move(1, 1)
        wait_for(lambda: said.count() == 0, 90, "the charts say nothing of where the mouse was")

        def noticed():
            self.page.mouse.move(x - 3, y)
            self.page.mouse.move(x, y, steps=4)
            return said.count() > 0

        wait_for(noticed, 90, "the chart says what is under the mouse")
        self.page.mouse.click(x, y)

    def reset(self, count=COUNT):
        """All samples again."""
        self.page.get_by_role("button", name="Reset grid").click()
        self.wait_for_samples(count)

    def shown(self, field):
        """Whether a field is ticked in the sidebar."""
        return self.page.locator(f"[data-cy='checkbox-{field}'] input").is_checked()
