"""The report's page as tests read it: its elements, its text, and rules for every report."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements and the text of a report's page.

    Reading it checks that attributes are unique and that every element is closed.

    Args:
      path: path of the HTML file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = Path(path).read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == [], "elements must be closed in the order in which they are nested"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """Returns the attributes of each element of this tag that has all these attributes."""
        wanted = {
            name.replace("class_", "class"): value for name, value in attributes.items()
        }.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]

    def check(self) -> None:
        """Asserts that the page runs nothing, loads nothing from elsewhere, and is accessible."""
        (policy,) = (
            m["content"] for m in self.of("meta", **{"http-equiv": "Content-Security-Policy"})
        )
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        ids = [found["id"] for _, found in self.elements if "id" in found]
        assert len(ids) == len(set(ids))
        for tag, found in self.elements:
            assert tag not in {
                "script",
                "iframe",
                "object",
                "embed",
                "link",
                "form",
                "base",
                "foreignobject",
            }
            for name, value in found.items():
                assert not name.startswith("on"), (tag, name)
                if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                    assert re.match(r"#[\w-]+$|data:image/jpeg;base64,[\w+/=]+$", value), value[:80]
                    assert not value.startswith("#") or value[1:] in ids
        assert "url(http" not in self.source
        assert "@import" not in self.source
        headings = [int(tag[1]) for tag, _ in self.elements if re.fullmatch(r"h[1-6]", tag)]
        assert headings[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
        for found in self.of("img"):
            assert "alt" in found
