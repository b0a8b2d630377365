"""The command line.  Exit status: 0 all conform, 1 something fails, 2 bad input, 3 our own failure."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from conformance.errors import BadInput
from conformance.version import VERSION

DATA = (
    *("exact", "rounding", "edge", "edge-nan", "edge-inf", "edge-zero", "edge-subnormal", "edge-huge"),
    *("adjoint", "linearity", "gradient", "published"),
)


def main() -> None:
    """The ``conformance`` command, with the exit statuses that CI relies on."""
    try:
        code = commands.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except BadInput as error:
        click.echo(str(error), err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("this is a failure of conformance itself; please report it", err=True)
        code = 3
    sys.exit(code)


def _split(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Options that take several values, by comma or repeated."""
    return tuple(dict.fromkeys(part for value in values for part in value.split(",") if part))


def _split_data(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    kinds = _split(context, parameter, values)
    for kind in kinds:
        if kind not in DATA:
            raise click.BadParameter(f"expected {', '.join(DATA)}, got {kind}")
    return tuple(
        k for kind in kinds for k in ([d for d in DATA if d.startswith("edge-")] if kind == "edge" else [kind])
    )


def _seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"expected a number of seconds, got {value}")
    return value


def _targets(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--target",
        "targets",
        multiple=True,
        callback=_split,
        metavar="T",
        help="A target by name, with an exporter before it (torch-dynamo:onnxruntime), or the path of a Python file; "
        "by comma or repeated.  All that are installed and quick, if none.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="conformance")
def commands() -> None:
    """Does your framework compute the transposed convolution?

    Runs convolution configurations on PyTorch, Keras, TensorFlow and ONNX Runtime and judges every result against the
    convolution written as a matrix C, and its transpose C.T.
    """


def _leave_cores_to_targets() -> None:
    """Before NumPy is imported: threads of its BLAS that spin would take the cores that targets work on."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@commands.command()
@click.argument("suites", nargs=-1, metavar="[SUITE_OR_FILE]...")
@_targets
@click.option(
    "--data", multiple=True, callback=_split_data, metavar="KIND", help="Only these: exact, rounding, edge ..."
)
@click.option("--profile", type=click.Choice(["quick", "full"]), default="quick", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="Workers.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads in each framework.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.01),
    callback=_seconds,
    default=60.0,
    show_default=True,
    help="Seconds per case.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the run file here.")
@click.option("--resume", type=click.Path(path_type=Path, dir_okay=False), help="Go on with this run file.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the run as JSON too.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Run everything so many times, and compare the bits.",
)
@click.option(
    "--deviations",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="F",
    help="Deviations that you document: a YAML file or a folder; repeated.",
)
@click.option("--failures", type=click.IntRange(min=0), default=40, show_default=True, help="Kinds of failure to list.")
def run(suites: tuple[str, ...], **options: Any) -> int:
    """Run suites on targets and judge every result."""
    _leave_cores_to_targets()
    from conformance.run_command import Asked, run_command

    return run_command(Asked(suites=suites, **options))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all settings.")
@click.option("--settings", is_flag=True, help="Also what else their results depend on: devices, threads, switches.")
def targets(as_json: bool, settings: bool) -> int:
    """List targets and exporters: versions, what they promise; for what is missing, how to install it."""
    from conformance.commands import targets_command

    return targets_command(as_json, settings)


@commands.command()
@click.option("--clear", is_flag=True, help="Remove everything in it.")
def cache(clear: bool) -> int:
    """Show or clear the cache of exported ONNX files."""
    from conformance.commands import cache_command

    return cache_command(clear)


@commands.command()
@click.argument("suites", nargs=-1, metavar="[SUITE_OR_FILE]...")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of suite files, for editors.")
@click.option("--where", is_flag=True, help="Print the folder of the shipped suites, for pytest.")
@click.option("--profile", type=click.Choice(["quick", "full"]), default="full", show_default=True)
def cases(suites: tuple[str, ...], schema: bool, where: bool, profile: str) -> int:
    """List cases, or check suite files."""
    from conformance.commands import cases_command

    return cases_command(suites, schema, where, profile)


@commands.command()
@click.argument("case", metavar="CASE")
@click.option("--suite", "suites", multiple=True, metavar="FILE", help="Look for the case in this file too.")
@_targets
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="The run file to read (the last run).")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0.01), callback=_seconds, default=60.0, show_default=True)
def show(case: str, **options: Any) -> int:
    """Show one case: what it says, what it means, what the last run made of it.

    With --target, run it there now and show the elements that are most wrong.
    """
    _leave_cores_to_targets()
    from conformance.commands import show_command

    return show_command(case, **options)


@commands.command()
@click.argument("old", type=click.Path(path_type=Path), required=False)
@click.argument("new", type=click.Path(path_type=Path), required=False)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write it as JSON too.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F",
    help="And as Markdown, for a job summary or a comment on a pull request.",
)
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of --json.")
@click.option("--limit", type=click.IntRange(min=0), default=40, show_default=True, help="Kinds of change to list.")
def compare(**options: Any) -> int:
    """Show what changed from run file OLD to run file NEW, cell by cell; status 1 if something became worse.

    Worse is: newly failing (what is documented does not count), failing worse, a weaker arithmetic, and errors that
    really and largely grew.
    """
    _leave_cores_to_targets()
    from conformance.compare_command import compare_command

    return compare_command(**options)


def _channels(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 10):
            raise click.BadParameter(f"expected numbers of channels, by comma or repeated, got {part}")
    return tuple(dict.fromkeys(map(int, parts)))


@commands.command()
@click.argument("case", metavar="CASE")
@click.option("--suite", "suites", multiple=True, metavar="FILE", help="Look for the case in this file too.")
@click.option("--image", type=click.Path(path_type=Path), metavar="F", help="A PNG, JPEG or .npy; drawn, if none.")
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="F", help="A .safetensors, .npz or .onnx; drawn, if none."
)
@click.option("--layer", metavar="NAME", help="Up to this layer, rather than to the case's last.")
@click.option("--channels", multiple=True, callback=_channels, metavar="N", help="These, by comma or repeated.")
@click.option("--top", type=click.IntRange(1, 100), metavar="N", help="So many strongest channels (9).")
@click.option(
    "--target",
    "targets",
    multiple=True,
    callback=_split,
    metavar="T",
    help="As for run.  One of every installed library, if none.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="F", help="An .html, or a figure: .png, .svg or .pdf.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0.01), callback=_seconds, default=60.0, show_default=True)
def explain(case: str, **options: Any) -> int:
    """Show a deconvnet in pictures: what its strongest activations see of an image, on every target.

    Pictures are resized and cropped around the centre to what the case is fed, and normalised with ImageNet's mean and
    standard deviation; an .npy of floating-point numbers (C, H, W) is fed as it is.  Weights are found by the case's
    names (conv1.weight), or else taken in order.
    """
    _leave_cores_to_targets()
    from conformance.commands import explain_command

    return explain_command(case, **options)


@commands.command()
@click.argument("requirements", nargs=-1, required=True, metavar="REQUIREMENT...")
@click.option("--suite", "suites", multiple=True, metavar="S", help="A suite or a file; repeated.  All, if none.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    callback=_split,
    metavar="T",
    help="As for run.  All quick ones that need what is asked for, if none.",
)
@click.option("--data", multiple=True, callback=_split_data, metavar="KIND", help="Only these: exact, rounding ...")
@click.option("--profile", type=click.Choice(["quick", "full"]), default="quick", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="Workers.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads in each framework.")
@click.option("--timeout", type=click.FloatRange(min=0.01), callback=_seconds, default=60.0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for the run files (across-PACKAGE); what is there already is not run again.",
)
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables as Markdown too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="And as JSON.")
@click.option("--overlay", is_flag=True, help="Only lay what is asked for over this environment.")
@click.option("--isolated", is_flag=True, help="Make each environment from nothing.")
@click.option("--python", metavar="P", help="The Python of such environments, as uv takes it: 3.12, or a path.")
@click.option("--failures", type=click.IntRange(min=0), default=20, show_default=True, help="Kinds of failure to list.")
def across(requirements: tuple[str, ...], **options: Any) -> int:
    """Run the suites on several versions of a framework, and show what changed.

    Each REQUIREMENT is one environment, made by uv: keras==3.12.*, or several packages in quotation marks
    ("onnxruntime==1.17.* numpy<2").  It is laid over the present environment, so that nothing else changes; where that
    does not work, it is made from nothing.  Status 1: the last version has failures that are not documented, or one is
    worse than the version before it; 2: no version could be run.
    """
    _leave_cores_to_targets()
    from conformance.across_command import across_command

    return across_command(requirements, **options)


@commands.command()
@click.argument("ids", nargs=-1, metavar="[DEVIATION]...")
@click.option(
    "--deviations", "files", multiple=True, type=click.Path(path_type=Path), metavar="F", help="And those of a file."
)
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="The run file to count in (the last run).")
def deviations(ids: tuple[str, ...], **options: Any) -> int:
    """List documented deviations of released versions, or say why one is there.

    A verdict that a deviation predicts is known and does not fail; one that it predicts and that does not come is
    fixed, and fails until the entry is removed.
    """
    from conformance.deviations_command import deviations_command

    return deviations_command(ids, **options)
