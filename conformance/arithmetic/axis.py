"""One spatial axis of the matrix C."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution ``y = C x`` and, read backwards, of its transpose ``x' = C.T y``.

    Tap ``t`` joins position ``m`` of the small side with position ``j = m * stride - begin + t * dilation`` of the
    large side; a tap that falls outside ``0 <= j < large`` does not exist.  A convolution reads the large side and
    writes the small one; its transpose goes the other way.  For the convolution ``begin`` is therefore the zero
    padding at the beginning, for the transpose the number of rows cropped there; negative values do the opposite.

    All sizes are in elements (pixels, samples, voxels).
    """

    large: int
    small: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    begin: int = 0

    @property
    def extent(self) -> int:
        """Size of the dilated kernel, ``k^ = k + (k - 1)(d - 1)`` (Dumoulin and Visin, section 5.1)."""
        return extent(self.kernel, self.dilation)

    @property
    def full(self) -> int:
        """Size of the transposed convolution before anything is cropped or added."""
        return full_size(self.small, self.extent, self.stride)

    @property
    def end(self) -> int:
        """Rows cropped from the full transposed result at its end; negative: rows added there."""
        return self.full - self.begin - self.large


def extent(kernel: int, dilation: int) -> int:
    """Size of a dilated kernel: ``(k - 1) d + 1``."""
    return (kernel - 1) * dilation + 1


def full_size(small: int, extent: int, stride: int) -> int:
    """Size of an uncropped transposed convolution: ``(i' - 1) s + k^``; 0 for an empty input."""
    return (small - 1) * stride + extent if small else 0


def convolved_size(large: int, extent: int, stride: int, padding: int) -> int:
    """Size of a convolution's output, ``floor((i + padding - k^) / s) + 1``, ``padding`` being both ends together.

    Not positive where the kernel does not fit.
    """
    return (large + padding - extent) // stride + 1
