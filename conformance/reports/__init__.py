"""What people read.  ``terminal``: the matrix and the failures; ``details``: one case, whole."""
