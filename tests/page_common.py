"""An HTML page as a browser would read it."""

import html.parser


class Page(html.parser.HTMLParser):
    """What a browser would make of the page."""

    VOID = {"img", "meta", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.pictures, self.words, self._open = [], [], [], [], []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data"):
                self.links.append(value)
            assert not name.startswith("on"), f"{tag} has {name}"
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())
