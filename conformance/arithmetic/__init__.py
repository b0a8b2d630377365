"""Sizes: how large the output is, and which rows of the full result are kept.

``axis``           one spatial axis of C, the geometry that everything else resolves to
``relationships``  the 15 numbered relationships of Dumoulin and Visin
``spellings``      padding, ``same``, ``output_padding``, ``auto_pad`` ... each resolved to the crop it means
``onnx_readings``  what the texts of ONNX's operators leave open
"""

from conformance.arithmetic.axis import Axis
from conformance.arithmetic.relationships import RELATIONSHIPS, Quantities, check_relationship

__all__ = ["RELATIONSHIPS", "Axis", "Quantities", "check_relationship"]
