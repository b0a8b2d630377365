"""What a case says, and how it is written in YAML.

``case``         the frozen case that the rest of the house works with
``fields``       the kinds of value that YAML may hold      ``convolution``  the models of the three convolution ops
``marks``        YAML with line numbers                      ``matrix``       grids of cases
``loader``       file to cases, all errors at once           ``vectors``      published numbers
``suites``       names and paths to files                    ``schema``       JSON Schema for editors
"""

from conformance.spec.case import DATA_KINDS, DRAWN_KINDS, EDGE_KINDS, PUBLISHED, Case, Convolution, Vectors
from conformance.spec.loader import load_suite
from conformance.spec.schema import suite_schema
from conformance.spec.suites import PROFILES, load_cases, shipped_suites

__all__ = [
    "DATA_KINDS",
    "DRAWN_KINDS",
    "EDGE_KINDS",
    "PROFILES",
    "PUBLISHED",
    "Case",
    "Convolution",
    "Vectors",
    "load_cases",
    "load_suite",
    "shipped_suites",
    "suite_schema",
]
