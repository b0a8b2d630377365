"""Arrays to pictures, and pictures to PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from conformance.explain.network import Box

BLUE, ORANGE, MAGENTA, VIOLET = (37, 99, 235), (234, 88, 12), (255, 0, 200), (124, 58, 237)
COLOURS = ("#e11d48", "#2563eb", "#16a34a", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#65a30d", "#475569")
"""Of activations, by their number."""
CONTRAST = 0.995
"""The share of a projection's pixels whose contrast is kept; the few beyond are clipped."""
GAMMA = 0.7
"""Of how opaque a difference is, so that small ones are seen too."""


def colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]


def cut(picture: np.ndarray, box: Box) -> np.ndarray:
    """The part of a picture ``(..., H, W)`` in a box."""
    (top, bottom), (left, right) = box
    part: np.ndarray = picture[..., top:bottom, left:right]
    return part


def scale_of(signal: np.ndarray) -> float:
    """What is shown as full contrast; 1 where there is nothing."""
    sizes = np.abs(signal[np.isfinite(signal) & (signal != 0)])
    return float(np.quantile(sizes, CONTRAST)) if sizes.size else 1.0


def photo(pixels: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` in 0 to 1 as uint8."""
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)  # type: ignore[no-any-return]


def projected(signal: np.ndarray, scale: float) -> np.ndarray:
    """A signed signal ``(C, H, W)`` as ``(H, W, 3)``: 0 is grey; three channels are colours, others are averaged."""
    colours = signal if len(signal) == 3 else np.repeat(signal.mean(axis=0, keepdims=True), 3, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        picture = photo(0.5 + 0.5 * np.nan_to_num(colours / scale, nan=0.0).transpose(1, 2, 0))
    picture[~np.isfinite(colours).all(axis=0)] = MAGENTA
    return picture


def strongest_difference(difference: np.ndarray) -> np.ndarray:
    """Of the channels of each pixel the difference that is largest, with its sign: ``(C, H, W)`` to ``(H, W)``."""
    sizes = np.nan_to_num(np.abs(difference), nan=np.inf)
    strongest: np.ndarray = np.take_along_axis(difference, sizes.argmax(axis=0)[None], axis=0)[0]
    return strongest


def diverging(values: np.ndarray, scale: float) -> np.ndarray:
    """``(H, W)`` as ``(H, W, 4)``: blue below 0, orange above, and the more opaque the further away; 0 is nothing."""
    finite = np.isfinite(values)
    share = np.clip(np.where(finite, np.abs(values) / (scale or 1.0), 1.0), 0.0, 1.0)
    picture = np.empty((*values.shape, 4), np.uint8)
    picture[..., :3] = np.where((values < 0)[..., None], BLUE, ORANGE)
    picture[..., :3][~finite] = MAGENTA
    picture[..., 3] = np.where(share > 0, 255 * share**GAMMA + 0.5, 0)
    return picture


def heat(values: np.ndarray) -> np.ndarray:
    """A map ``(H, W)`` as ``(H, W, 4)``: the more violet the stronger; what is not above 0 is nothing."""
    largest = values.max(initial=0.0)
    picture = np.empty((*values.shape, 4), np.uint8)
    picture[..., :3] = VIOLET
    picture[..., 3] = 255 * np.clip(values / largest, 0, 1) + 0.5 if largest > 0 else 0
    return picture


def mosaic(tiles: Sequence[np.ndarray], side: int = 124, gap: int = 4) -> np.ndarray:
    """Pictures ``(H, W, 3)`` as squares, three or two in a row, ``(H, W, 4)``."""
    from PIL import Image

    columns = 3 if len(tiles) > 4 else 2
    rows = len(tiles) // columns
    sheet = np.zeros((rows * (side + gap) - gap, columns * (side + gap) - gap, 4), np.uint8)
    for n, tile in enumerate(tiles[: rows * columns]):
        smooth = Image.Resampling.LANCZOS if min(tile.shape[:2]) >= side // 2 else Image.Resampling.NEAREST
        top, left = (n // columns) * (side + gap), (n % columns) * (side + gap)
        square = np.asarray(Image.fromarray(tile).resize((side, side), smooth))
        sheet[top : top + side, left : left + side, :3] = square
        sheet[top : top + side, left : left + side, 3] = 255
    return sheet


def legend() -> np.ndarray:
    """The colours of differences, from the largest below 0 to the largest above."""
    return diverging(np.linspace(-1, 1, 121)[None], 1.0)


def data_uri(picture: np.ndarray) -> str:
    """A picture as a PNG inside an address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
