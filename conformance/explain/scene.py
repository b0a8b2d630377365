"""The image that is explained: a user's, or a drawn one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from conformance.errors import BadInput
from conformance.text import printable

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, in 0 to 1, as torchvision's models are trained with."""
GREY_MEAN, GREY_SPREAD = 0.449, 0.226
MAX_BYTES = 2**28
MAX_PIXELS = 10**8
MAX_SMOOTH = 2**20
DRAWN = "a drawn picture"
PREPARED = "in 0 to 1, minus ImageNet's mean, divided by its standard deviation"


@dataclass(frozen=True)
class Scene:
    """An image: ``pixels`` as people see it, ``(H, W, 3)`` in 0 to 1; ``tensor`` as the network does, ``(1, C, H, W)``.

    ``source`` says where it comes from, ``prepared`` how the tensor follows from the pixels.
    """

    pixels: np.ndarray = field(repr=False)
    tensor: np.ndarray = field(repr=False)
    source: str
    prepared: str


def read_scene(path: Path, shape: tuple[int, ...]) -> Scene:
    """The image of a file for a network fed ``(1, C, H, W)``.

    PNG and JPEG, and ``.npy`` of uint8, are pictures: resized so that they cover the input, cropped around the centre,
    minus the mean, divided by the spread.  An ``.npy`` of floating-point numbers is fed as it is, ``(C, H, W)``.
    Raises BadInput.
    """
    array = _read_array(path) if path.suffix.lower() == ".npy" else _read_picture(path)
    if array.dtype == np.uint8:
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
            raise BadInput(f"{path}: expected a picture of shape HxW or HxWx3, got {_sizes(array.shape)}")
        if shape[1] not in (1, 3):
            raise BadInput(f"{path}: expected a case of 1 or 3 input channels for a picture, got {shape[1]}")
        return _prepared(array, shape, path.name)
    if array.dtype.kind != "f":
        raise BadInput(f"{path}: expected uint8 or floating-point numbers, got {array.dtype}")
    if array.shape not in (shape, shape[1:]):
        raise BadInput(f"{path}: expected shape {_sizes(shape[1:])}, got {_sizes(array.shape)}")
    tensor = array.reshape(shape).astype(np.float64)
    if not np.isfinite(tensor).all():
        raise BadInput(f"{path}: expected finite numbers")
    return Scene(_shown(tensor[0]), tensor, path.name, "fed as it is")


def drawn_scene(shape: tuple[int, ...]) -> Scene:
    """A landscape with edges, discs, gratings and colours, the same on every machine, for any number of channels."""
    picture = (draw(shape[2:]) * 255 + 0.5).astype(np.uint8)
    if shape[1] in (1, 3):
        return _prepared(picture, shape, DRAWN)
    scene = _prepared(picture, (1, 3, *shape[2:]), DRAWN)
    share = np.linspace(0, 1, shape[1])[:, None, None]
    return replace(scene, tensor=((1 - share) * scene.tensor[0, 0] + share * scene.tensor[0, 2])[None])


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(f"{path}: expected at most {MAX_PIXELS:,} pixels, got {image.width:,}x{image.height:,}")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # sixteen bits, which converting would clip to eight
                return (np.asarray(upright) >> 8).astype(np.uint8)
            upright = upright.convert("RGBA")
    except BadInput:
        raise
    except OSError as error:
        said = error.strerror or "it is no PNG or JPEG, or damaged"
        raise BadInput(f"{path}: cannot be read as an image: {said}") from None
    except Exception as error:  # a stranger's file can be wrong in any way
        raise BadInput(f"{path}: cannot be read as an image: {_short(error)}") from None
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def _read_array(path: Path) -> np.ndarray:
    try:
        size = path.stat().st_size
        array = np.load(path, allow_pickle=False, max_header_size=10_000) if size <= MAX_BYTES else None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or 'it is no .npy file'}") from None
    except Exception as error:  # a stranger's file can be wrong in any way
        raise BadInput(f"{path}: cannot be read: {_short(error)}") from None
    if array is None:
        raise BadInput(f"{path}: expected at most {MAX_BYTES:,} bytes, got {size:,}")
    if not isinstance(array, np.ndarray):
        raise BadInput(f"{path}: expected one array, found an archive")
    return array


def _prepared(picture: np.ndarray, shape: tuple[int, ...], source: str) -> Scene:
    """A uint8 picture as the network is fed it."""
    from PIL import Image, ImageOps

    channels, height, width = shape[1:]
    fitted = ImageOps.fit(Image.fromarray(picture).convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    if channels == 1:
        grey = np.asarray(fitted.convert("L"), np.float64) / 255
        pixels, tensor = np.repeat(grey[..., None], 3, axis=2), (grey[None, None] - GREY_MEAN) / GREY_SPREAD
    else:
        pixels = np.asarray(fitted, np.float64) / 255
        tensor = ((pixels - MEAN) / SPREAD).transpose(2, 0, 1)[None]
    return Scene(pixels, tensor, source, PREPARED)


def _shown(tensor: np.ndarray) -> np.ndarray:
    """A tensor ``(C, H, W)`` of any scale as people can see it."""
    colours = tensor if tensor.shape[0] == 3 else np.repeat(tensor.mean(axis=0, keepdims=True), 3, axis=0)
    low, high = colours.min(), colours.max()
    scaled: np.ndarray = (colours - low) / (high - low) if high > low else np.full(colours.shape, 0.5)
    return scaled.transpose(1, 2, 0)


def _short(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:200])


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def draw(size: tuple[int, ...]) -> np.ndarray:
    """The landscape, ``(H, W, 3)`` in 0 to 1: sun, striped balloon, hills, a house, a fence, water, a little grain."""
    finer = 4 if math.prod(size) < MAX_SMOOTH else 1
    height, width = (n * finer for n in size)
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    picture = _Picture(u, v)
    picture.paint(np.ones(u.shape, bool), (0.45, 0.66, 0.90), (0.93, 0.90, 0.80), v / 0.62)
    picture.paint(np.hypot(u - 0.80, v - 0.19) < 0.115, (0.98, 0.76, 0.18))
    picture.paint(abs(np.hypot(u - 0.80, v - 0.19) - 0.155) < 0.009, (0.99, 0.93, 0.62))
    _balloon(picture)
    picture.paint(v > 0.60 + 0.07 * np.sin(5.2 * u + 0.4), (0.36, 0.55, 0.36))
    picture.paint(v > 0.69 + 0.05 * np.sin(7.3 * u + 2.6), (0.52, 0.69, 0.30), (0.36, 0.52, 0.20), (v - 0.65) * 4)
    _house(picture)
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * 26 * v + 3 * np.sin(9 * u))
    picture.paint(v > 0.86 + 0.012 * np.sin(9 * u), (0.16, 0.36, 0.58), (0.55, 0.75, 0.86), waves)
    fence = (v > 0.715) & (v < 0.845) & (u > 0.56)
    picture.paint(fence & (np.mod(u, 0.044) < 0.02), (0.95, 0.93, 0.88))
    picture.paint(fence & (abs(v - 0.755) < 0.009), (0.95, 0.93, 0.88))
    coarse = picture.colours.reshape(size[0], finer, size[1], finer, 3).mean(axis=(1, 3))
    grain = np.random.default_rng(1311_2901).standard_normal((*size, 1))
    return np.clip(coarse + 0.012 * grain, 0.0, 1.0)  # type: ignore[no-any-return]


class _Picture:
    """Colours ``(H, W, 3)`` that are painted over; ``u`` runs to the right, ``v`` down, both from 0 to 1."""

    def __init__(self, u: np.ndarray, v: np.ndarray) -> None:
        self.u, self.v = u, v
        self.colours = np.zeros((*u.shape, 3))

    def paint(
        self,
        where: np.ndarray,
        colour: tuple[float, float, float],
        other: tuple[float, float, float] | None = None,
        share: np.ndarray | None = None,
    ) -> None:
        """Paint a colour, or one that goes over to another by ``share``."""
        if other is None or share is None:
            self.colours[where] = colour
            return
        t = np.clip(share[where], 0.0, 1.0)[:, None]
        self.colours[where] = (1 - t) * np.array(colour) + t * np.array(other)


def _balloon(picture: _Picture) -> None:
    u, v = picture.u - 0.29, picture.v - 0.185
    stripes = np.sin(2 * np.pi * 11 * (u + v)) > 0
    envelope = np.hypot(u, v) < 0.15
    picture.paint(envelope & stripes, (0.86, 0.19, 0.20))
    picture.paint(envelope & ~stripes, (0.97, 0.95, 0.92))
    picture.paint((abs(abs(u) - 0.03) < 0.006) & (v > 0.145) & (v < 0.20), (0.30, 0.22, 0.18))
    picture.paint((abs(u) < 0.042) & (v > 0.195) & (v < 0.245), (0.52, 0.33, 0.16))


def _house(picture: _Picture) -> None:
    u, v = picture.u, picture.v
    picture.paint((u > 0.10) & (u < 0.44) & (v > 0.60) & (v < 0.84), (0.93, 0.83, 0.63))
    picture.paint((v > 0.47) & (v < 0.61) & (abs(u - 0.27) < (v - 0.47) * 1.55), (0.60, 0.18, 0.16))
    picture.paint((u > 0.23) & (u < 0.31) & (v > 0.70) & (v < 0.84), (0.25, 0.34, 0.50))
    for left in (0.135, 0.345):
        window = (u > left) & (u < left + 0.065) & (v > 0.66) & (v < 0.74)
        bars = (abs(u - left - 0.0325) < 0.005) | (abs(v - 0.70) < 0.005)
        picture.paint(window, (0.13, 0.20, 0.32))
        picture.paint(window & bars, (0.97, 0.95, 0.90))
