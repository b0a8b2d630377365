"""The grid of projections as a figure for print: PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.explain import pictures
from conformance.explain.explanation import Explanation, Row, same_bits
from conformance.explain.words import chosen, kind_of, number, verdict_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 1.15
"""Width of a picture, in inches."""
DOTS_PER_INCH = 200
INKS = {"passed": "#15803d", "failed": "#b91c1c", "open": "#a16207", "refused": "#57534e"}


def write_figure(explanation: Explanation, path: Path) -> None:
    """Write the figure; the suffix of ``path`` says in which format.

    Rows are activations: where in the image, what is seen there, the oracle's projection, and for each target its
    projection and its difference from the oracle's.
    """
    from matplotlib.figure import Figure

    groups = same_bits(explanation)
    columns, lines = 3 + 2 * len(groups), len(explanation.rows)
    width, height = columns * SIDE + 1.0, lines * (SIDE + 0.22) + 1.52
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.24})
    figure.subplots_adjust(left=0.85 / width, right=1 - 0.1 / width, top=1 - 0.95 / height, bottom=0.52 / height)
    for n, (row, axes) in enumerate(zip(explanation.rows, grid, strict=True)):
        _draw_row(explanation, n, row, groups, axes)
    for axis, title in zip(grid[0], ("image", "what it sees", "oracle"), strict=False):
        axis.set_title(title, fontsize=8)
    for axis, names in zip(grid[0][3::2], groups, strict=True):
        axis.set_title(",\n".join(names), fontsize=8)
    for axis in grid[0][4::2]:
        axis.set_title("Δ", fontsize=8)
    _caption(explanation, figure, width, height)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _draw_row(explanation: Explanation, n: int, row: Row, groups: Sequence[tuple[str, ...]], axes: Any) -> None:
    from matplotlib.patches import Rectangle

    activation = row.activation
    (top, bottom), (left, right) = activation.field
    pixels, scale = explanation.scene.pixels, pictures.scale_of(row.exact)
    _show(axes[0], pixels)
    box = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False)
    box.set(edgecolor=pictures.colour(n), linewidth=1.4)
    axes[0].add_patch(box)
    told = "all" if activation.channel is None else f"{activation.channel}"
    axes[0].set_ylabel(f"channel {told}\n{number(activation.value)}", fontsize=7, rotation=0, ha="right", va="center")
    _show(axes[1], pixels[top:bottom, left:right])
    _show_signal(axes[2], row.exact, scale, row)
    for names, place in zip(groups, range(3, len(axes), 2), strict=True):
        projection = row.projections[names[0]]
        if projection.signal is not None and projection.difference is not None:
            _show_signal(axes[place], projection.signal, scale, row)
            difference = pictures.cut(pictures.strongest_difference(projection.difference), activation.field)
            _show(axes[place + 1], pictures.diverging(difference, projection.largest))
        else:
            for axis in axes[place : place + 2]:
                axis.set_axis_off()
        verdict = verdict_in_words(projection.judgement.verdict)
        told = verdict if projection.signal is None else f"Δ ≤ {number(projection.largest)}, {verdict}"
        ink, below = INKS[kind_of(projection.judgement.verdict)], axes[place + 1]
        below.text(-0.03, -0.03, told, fontsize=5.5, color=ink, ha="center", va="top", transform=below.transAxes)


def _show(axis: Axes, picture: Any) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.3)


def _show_signal(axis: Axes, signal: Any, scale: float, row: Row) -> None:
    _show(axis, pictures.projected(pictures.cut(signal, row.activation.field), scale))
    if not signal.any():
        axis.text(0.5, 0.5, "all zero", fontsize=6, color="white", ha="center", va="center", transform=axis.transAxes)


def _caption(explanation: Explanation, figure: Any, width: float, height: float) -> None:
    case = explanation.case
    title = f"{case.layers[-1].name} of {case.id}, projected to pixels"
    figure.text(0.12 / width, 1 - 0.22 / height, title, fontsize=10, fontweight="bold", va="center")
    policies = ", ".join(f"{name}: {value}" for name, value in chosen(case).items())
    figure.text(0.12 / width, 1 - 0.44 / height, policies, fontsize=7, color="#57534e", va="center")
    made = ", ".join(f"{name} {version}" for name, version in explanation.versions.items())
    said = f"Image: {explanation.scene.source}. Weights: {explanation.weights}.\n{made}."
    figure.text(0.12 / width, 0.17 / height, said, fontsize=5.5, color="#57534e", va="center")
