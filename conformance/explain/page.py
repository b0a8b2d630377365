"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np

from conformance.explain import pictures
from conformance.explain.activations import Activation
from conformance.explain.diagram import layers_of
from conformance.explain.explanation import Explanation, Row, same_bits
from conformance.explain.network import Box
from conformance.explain.projections import Projection
from conformance.explain.readings import Reading
from conformance.explain.words import POLICIES, SHORT, TIMES, chosen, kind_of, number, verdict_in_words
from conformance.spec import Deconvnet
from conformance.text import printable

ROW_WIDTH, WIDEST, NARROWEST = 1032, 176, 112
COARSE = 96
"""Pictures with fewer pixels than this on a side are shown with hard edges."""


def write_page(explanation: Explanation, command: str) -> str:
    """The page as HTML.  ``command`` is the command line that makes it again."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("conformance.explain").joinpath("page.html").read_text("utf-8"))
    return template.render(page=Page(explanation), command=printable(command))


@dataclass(frozen=True)
class Picture:
    """A picture of the page.  ``empty`` says that there is nothing in it but zeros."""

    uri: str
    alt: str
    coarse: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Cell:
    """What one or several targets made of an activation: where they gave the same bits they share it."""

    names: tuple[str, ...]
    verdict: str
    kind: str
    told: tuple[str, ...]
    message: str
    projection: Picture | None = None
    difference: Picture | None = None


@dataclass(frozen=True)
class Page:
    """What the template asks for."""

    explanation: Explanation

    @property
    def case(self) -> Deconvnet:
        return self.explanation.case

    @property
    def layer(self) -> str:
        return self.case.layers[-1].name

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        return layers_of(self.case)

    @cached_property
    def scene(self) -> Picture:
        pixels = self.explanation.scene.pixels
        alt = f"the image: {self.explanation.scene.source}, {pixels.shape[1]} by {pixels.shape[0]} pixels"
        return Picture(pictures.data_uri(pictures.photo(pixels)), alt, min(pixels.shape[:2]) < COARSE)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image, in pixels."""
        return self.explanation.scene.pixels.shape[1], self.explanation.scene.pixels.shape[0]

    @cached_property
    def mosaics(self) -> list[Picture]:
        """What the activations see of the image, and the oracle's projections, as in the figures of the paper."""
        rows = self.explanation.rows
        if len(rows) < 4:
            return []
        pixels = self.explanation.scene.pixels.transpose(2, 0, 1)
        seen = [pictures.photo(pictures.cut(pixels, row.activation.field).transpose(1, 2, 0)) for row in rows]
        made = [
            pictures.projected(pictures.cut(row.exact, row.activation.field), pictures.scale_of(row.exact))
            for row in rows
        ]
        return [
            Picture(pictures.data_uri(pictures.mosaic(seen[:9])), "what the strongest activations see of the image"),
            Picture(pictures.data_uri(pictures.mosaic(made[:9])), "the same activations projected to pixels"),
        ]

    @cached_property
    def legend(self) -> str:
        return pictures.data_uri(pictures.legend())

    @cached_property
    def boxes(self) -> list[dict[str, Any]]:
        """The receptive fields in the image, with a tag where the unit is; activations with the same one share it."""
        shared: dict[Box, list[int]] = {}
        for n, row in enumerate(self.explanation.rows):
            shared.setdefault(row.activation.field, []).append(n)
        return [
            _placed(box, self.size)
            | {"colour": pictures.colour(numbers[0]), "label": ", ".join(str(n + 1) for n in numbers)}
            | {"tag": _centre(self.explanation.rows[numbers[0]].activation)}
            for box, numbers in shared.items()
        ]

    @property
    def cell(self) -> int:
        """The width of a picture, in pixels, with which a row fills the page."""
        pairs = 2 + len(same_bits(self.explanation))
        return max(min((ROW_WIDTH - 14 * (pairs - 1)) // pairs, WIDEST), NARROWEST)

    @property
    def tall(self) -> bool:
        """Whether some names of targets need two lines."""
        return any(len(", ".join(names)) * 7.2 > self.cell for names in same_bits(self.explanation))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        groups = same_bits(self.explanation)
        return [self._row(n, row, groups) for n, row in enumerate(self.explanation.rows)]

    def _row(self, n: int, row: Row, groups: list[tuple[str, ...]]) -> dict[str, Any]:
        activation, box = row.activation, row.activation.field
        pixels = pictures.cut(self.explanation.scene.pixels.transpose(2, 0, 1), box).transpose(1, 2, 0)
        name, scale = named(activation), pictures.scale_of(row.exact)
        return {
            "number": n + 1,
            "colour": pictures.colour(n),
            "name": name,
            "channel": "all" if activation.channel is None else activation.channel,
            "value": number(activation.value),
            "unit": ", ".join(map(str, activation.unit)),
            "field": _placed(box, self.size),
            "patch": _picture(pictures.photo(pixels), f"what {name} sees of the image"),
            "map": _map(activation),
            "exact": _projection(row.exact, scale, box, f"the oracle's projection of {name}"),
            "cells": [self._cell(names, row, scale) for names in groups],
        }

    def _cell(self, names: tuple[str, ...], row: Row, scale: float) -> Cell:
        projection, name = row.projections[names[0]], named(row.activation)
        judgement = projection.judgement
        message = "; ".join(filter(None, (judgement.diagnosis, judgement.message)))
        cell = (names, verdict_in_words(judgement.verdict), kind_of(judgement.verdict))
        if projection.signal is None or projection.difference is None:
            return Cell(*cell, (), message)
        shown = f"{name} projected by {names[0]}"
        difference = pictures.cut(pictures.strongest_difference(projection.difference), row.activation.field)
        return Cell(
            *cell,
            tuple(_told(projection)),
            message,
            _projection(projection.signal, scale, row.activation.field, shown),
            _picture(
                pictures.diverging(difference, projection.largest),
                f"{shown}, minus the oracle's: at most {number(projection.largest)}",
                empty=not projection.largest,
            ),
        )

    @cached_property
    def readings(self) -> list[list[dict[str, Any]]]:
        """Per activation its projection under each policy."""
        return [
            [_reading(self.case, row.activation, reading) for reading in row.readings] for row in self.explanation.rows
        ]

    @cached_property
    def erased(self) -> list[int]:
        """Per policy how many projections are all zero."""
        rows = self.explanation.rows
        return [sum(row.readings[n].empty for row in rows) for n in range(len(rows[0].readings))]

    @property
    def policies(self) -> list[dict[str, Any]]:
        values = chosen(self.case)
        return [
            {"name": name, "question": POLICIES[name].question, "value": value, "answers": POLICIES[name].answers}
            for name, value in values.items()
        ]

    @property
    def summaries(self) -> list[dict[str, str]]:
        """Per target how many of its projections conform."""
        rows = self.explanation.rows
        found = []
        for name in self.explanation.targets:
            kinds = [kind_of(row.projections[name].judgement.verdict) for row in rows]
            worst = next((kind for kind in ("failed", "open", "refused") if kind in kinds), "passed")
            passed = f"{kinds.count('passed')} of {len(rows)} conform"
            found.append({"name": name, "kind": worst, "told": passed})
        return found


def named(activation: Activation) -> str:
    """An activation in words."""
    return "all channels" if activation.channel is None else f"channel {activation.channel}"


def _told(projection: Projection) -> Iterator[str]:
    """The numbers below a difference."""
    if projection.largest:
        yield f"Δ at most {number(projection.largest)}"
    used = projection.judgement.bound_usage
    if used:
        yield f"{math.floor(used * 1e4) / 1e4:.4f} of its bound" if used < 1 else f"{number(used)} times its bound"
    if projection.moved:
        yield f"{projection.moved} {'switch' if projection.moved == 1 else 'switches'} moved"


def _picture(picture: np.ndarray, alt: str, *, empty: bool = False) -> Picture:
    return Picture(pictures.data_uri(picture), alt, min(picture.shape[:2]) < COARSE, empty)


def _projection(signal: np.ndarray, scale: float, box: Box, alt: str) -> Picture:
    empty = not signal.any()
    return _picture(
        pictures.projected(pictures.cut(signal, box), scale), alt + (": all zero" if empty else ""), empty=empty
    )


def _map(activation: Activation) -> dict[str, Any]:
    rows, columns = activation.map.shape
    place = {
        "left": f"{100 * activation.unit[1] / columns:.3f}%",
        "top": f"{100 * activation.unit[0] / rows:.3f}%",
        "width": f"{100 / columns:.3f}%",
        "height": f"{100 / rows:.3f}%",
    }
    return {
        "picture": _picture(pictures.heat(activation.map), f"the map of {named(activation)}, {rows} by {columns}"),
        "mark": place,
        "size": f"{rows} {TIMES} {columns}",
        "aspect": f"{columns}/{rows}",
    }


def _centre(activation: Activation) -> dict[str, str]:
    """About where a unit sits in the image."""
    places = [100 * (n + 0.5) / size for n, size in zip(activation.unit, activation.map.shape, strict=True)]
    return {"top": f"{places[0]:.3f}%", "left": f"{places[1]:.3f}%"}


def _placed(box: Box, size: tuple[int, int]) -> dict[str, Any]:
    """A box in the image, in pixels and in percent."""
    (top, bottom), (left, right) = box
    width, height = size
    return {
        "x": left,
        "y": top,
        "w": right - left,
        "h": bottom - top,
        "left": f"{100 * left / width:.3f}%",
        "top": f"{100 * top / height:.3f}%",
        "width": f"{100 * (right - left) / width:.3f}%",
        "height": f"{100 * (bottom - top) / height:.3f}%",
    }


def _reading(case: Deconvnet, activation: Activation, reading: Reading) -> dict[str, Any]:
    own = not reading.policy
    label = "this case" if own else f"{reading.policy}: {reading.value}"
    short = _own_policies(case) if own else SHORT[reading.policy, reading.value]
    alt = f"{named(activation)} projected with {label}"
    return {
        "label": label,
        "short": short,
        "own": own,
        "picture": _projection(reading.signal, pictures.scale_of(reading.signal), activation.field, alt),
        "told": "" if own else _distance(reading),
        "same": not own and reading.distance == 0,
    }


def _own_policies(case: Deconvnet) -> str:
    return ", ".join(value for name, value in chosen(case).items() if name in ("overlap", "rectify"))


def _distance(reading: Reading) -> str:
    if reading.distance == 0:
        return "the same"
    if reading.distance is None:
        return "not zero"
    return f"distance {number(reading.distance)}"
