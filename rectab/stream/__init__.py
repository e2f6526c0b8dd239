"""Streams: train on one period, be measured on the next before learning from it, for several tables at equal bytes."""

from rectab.extras import need_extra

need_extra("rectab.stream", "sweep", "polars", "pydantic", "jinja2")
