"""The report as one HTML page that needs nothing else: no network, figures within, one script that sorts tables.

The page's policy lets no other script run: whatever a model wrote, it stays text.
"""

import base64
import hashlib
import re
from collections.abc import Mapping

from massact.report.document import Document
from massact.report.figure_style import BLUE, INK
from massact.report.pictures import Picture


def render_html(document: Document) -> str:
    """The whole page. Every text is escaped; only the figures, which are ours, go in as they are."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        """Escaped text, `code` in backticks as such; options and percentages are not broken over two lines."""
        safe = re.sub(
            r"`([^`]+)`", r"<code>\1</code>", str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%")
        )
        return Markup(re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r'<span class="whole">\1</span>', safe))  # noqa: S704

    environment = Environment(
        loader=PackageLoader("massact.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    figures: Mapping[str, Markup] = {
        picture.name: Markup(page_svg(picture))  # noqa: S704  # drawn by us, its texts escaped by matplotlib
        for picture in document.pictures
    }
    styles, script = (environment.get_template(f"report.{kind}").render() for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        document=document,
        given=document.given,
        figures=figures,
        styles=Markup(styles),  # noqa: S704  # a file of ours
        script=Markup(script),  # noqa: S704  # likewise
        script_digest=f"sha256-{digest}",
    )


def page_svg(picture: Picture) -> str:
    """A figure to stand within the page: it takes the page's text colour, and its ids are its own."""
    from markupsafe import escape

    svg = picture.svg[picture.svg.index("<svg") :].replace(INK, "currentColor")
    svg = svg.replace(BLUE.lower(), "var(--blue)")  # which is too dark on a dark ground
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # ids are unique in a page, and every figure has a figure_1
    for pattern in (r'(\bid=")', r"(url\(#)", r'(href="#)'):
        svg = re.sub(pattern, rf"\g<1>{picture.name}-", svg)
    opening = f'<svg role="img" aria-label="{escape(picture.alt)}"'
    return re.sub(r' width="[^"]+pt" height="[^"]+pt"', "", svg, count=1).replace("<svg", opening, 1)
