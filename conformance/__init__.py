"""deconv-conformance: does your framework compute the transposed convolution?

A convolution is a matrix, ``y = C x``; its transposed convolution is ``C.T y``.  This package writes C down from the
definition, runs frameworks on the same numbers and tells where they agree with it, bit for bit or within a proven
bound.  Start with ``conformance run`` on the command line.
"""

__version__ = "0.1.0"
