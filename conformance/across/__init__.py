"""The suites across versions of a framework: one environment for each version, made by uv.

``requirement``  what is asked for         ``environment``  how uv makes it, and whether it works
``probe``        what runs inside to see   ``child``        processes that are told to end when we are
``runner``       one run file per version  ``table``        all of them, side by side
"""

from conformance.across.environment import AUTO, ISOLATED, OVERLAY, recipes
from conformance.across.requirement import Wanted, parse_wanted
from conformance.across.runner import Settings, Version, run_versions
from conformance.across.table import Table, make_table

__all__ = [
    "AUTO",
    "ISOLATED",
    "OVERLAY",
    "Settings",
    "Table",
    "Version",
    "Wanted",
    "make_table",
    "parse_wanted",
    "recipes",
    "run_versions",
]
