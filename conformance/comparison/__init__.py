"""What changed between two runs: cell by cell, then in errors and times.

``run``          a run, read: its cells and the environment it was made in
``strength``     which verdict is worse, which arithmetic is weaker
``transitions``  what happened to one cell
``kinds``        similar changes together, the worst first
``shifts``       growth of errors and times, where it is real and large
``surroundings`` what the runs were made with, and what cannot be compared
``model``        the comparison, as JSON has it
``compare``      all of it
``words``        how reports say it
"""

from conformance.comparison.compare import compare
from conformance.comparison.model import Cell, Change, Comparison, Counts, Difference, Moved, Note, Shift, Side, schema
from conformance.comparison.run import Run

__all__ = [
    "Cell",
    "Change",
    "Comparison",
    "Counts",
    "Difference",
    "Moved",
    "Note",
    "Run",
    "Shift",
    "Side",
    "compare",
    "schema",
]
