"""Pages that open offline: templates, the style sheet and the scripts that they hold."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

__all__ = ["assets", "template"]


def assets() -> dict[str, Any]:
    """What a page holds beside its content: style sheet, script, and plotly.js with scatter and bar charts alone."""
    package = resources.files("rectab.sweep")
    folder = package / "templates"
    return {
        "css": Markup((folder / "report.css").read_text(encoding="utf-8")),
        "js": Markup((folder / "report.js").read_text(encoding="utf-8")),
        "plotly": Markup((package / "vendor" / "plotly-basic.min.js").read_text(encoding="utf-8")),
    }


def template(name: str) -> jinja2.Template:
    """A template of this package; what is put into one of HTML is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rectab.sweep", "templates"),
        autoescape=name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["markdown"] = _markdown
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template(name)


def _markdown(text: Any) -> str:
    """Text that cannot break out of a Markdown table's cell."""
    plain = " ".join(str(text).split())
    for sign in "\\`*_|<>[]":
        plain = plain.replace(sign, "\\" + sign)
    return plain
