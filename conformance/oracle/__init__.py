"""The truth, in NumPy, from the definitions; no framework is imported here.

``convolution``  C as a matrix, and two ways to apply it     ``draws``  numbers that it can sum without rounding
``operators``    the ops of the suite                         ``edges``  nan, inf, zeros, subnormals, overflow
``bounds``       how far from the truth an honest implementation can be
"""
