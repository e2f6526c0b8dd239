"""Which table? Candidates by rule, screened by what is cheap, raced on validation: ``rectab choose``."""

from rectab.extras import need_extra

need_extra("rectab.choosing", "sweep", "polars", "pydantic", "rich", "psutil", "jinja2")

from rectab.choosing.choose import choose

__all__ = ["choose"]
