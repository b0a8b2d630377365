"""Documented deviations: where a released version is known to disagree, and which verdict that gives.

``parameters``  what a predicate may speak of      ``predicate``  the predicate itself
``entry``       one deviation                      ``loader``     YAML files to deviations
``register``    all of them, and which of them predict a cell
"""

from conformance.deviations.entry import ALWAYS, SOMETIMES, Deviation
from conformance.deviations.loader import load_deviations, shipped_deviations
from conformance.deviations.register import Prediction, Register, Settled, Stale, settle

__all__ = [
    "ALWAYS",
    "SOMETIMES",
    "Deviation",
    "Prediction",
    "Register",
    "Settled",
    "Stale",
    "load_deviations",
    "settle",
    "shipped_deviations",
]
