"""The workflow of this project and the one that docs/ci.md shows: what a linter says, and that their commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from conformance import cli

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "conformance.yml"
PAGE = ROOT / "docs" / "ci.md"
OURS = WORKFLOW.read_text()


def blocks(page: Path) -> list[str]:
    """Indented blocks, without the indentation."""
    found = re.findall(r"(?:(?<=\n\n)(?:    .*\n|\n)+)", page.read_text())
    texts = [re.sub("^    ", "", block, flags=re.MULTILINE).strip("\n") for block in found]
    return [text for text in texts if text]


FILES = {text.split("\n")[0][2:]: text + "\n" for text in blocks(PAGE) if text.startswith("# .")}
GITHUB = FILES[".github/workflows/deconvolution.yml"]
GITLAB = FILES[".gitlab-ci.yml"]
WORKFLOWS = pytest.mark.parametrize("text", [OURS, GITHUB], ids=["ours", "page"])


def steps(text: str) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(text)["jobs"].values():
        yield from job["steps"]


def scripts() -> list[str]:
    """All shell there is: of both workflows, of GitLab, and the commands of the page."""
    run = [step["run"] for text in (OURS, GITHUB) for step in steps(text) if "run" in step]
    return run + yaml.safe_load(GITLAB)["deconvolution"]["script"] + [b for b in blocks(PAGE) if not b.startswith("#")]


def commands() -> list[list[str]]:
    """The words of every line of shell that runs one of our two commands."""
    lines = (line.strip() for script in scripts() for line in script.splitlines())
    plain = (re.sub(r" (\|\||<<<|>>) .*$", "", line) for line in lines if re.match(r"(conformance|pytest) ", line))
    return [shlex.split(line) for line in plain]


# ---- Linters ----


@WORKFLOWS
def test_actionlint_finds_nothing(text: str, tmp_path: Path) -> None:
    if (actionlint := shutil.which("actionlint")) is None:
        pytest.skip("actionlint is not on the path")
    path = tmp_path / "workflow.yml"
    path.write_text(text)
    done = subprocess.run([actionlint, "-no-color", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@WORKFLOWS
def test_the_schema_of_workflows_holds(text: str, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    path = tmp_path / "workflow.yml"
    path.write_text(text)
    assert schema_status(path) == 0
    path.write_text(text.replace("runs-on:", "run-on:"))
    assert schema_status(path) == 1


def test_the_schema_of_gitlab_holds(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    path = tmp_path / "ci.yml"
    path.write_text(GITLAB)
    assert schema_status(path, "vendor.gitlab-ci") == 0
    path.write_text(GITLAB.replace("script:", "scripts:"))
    assert schema_status(path, "vendor.gitlab-ci") == 1


def schema_status(path: Path, schema: str = "vendor.github-workflows") -> int:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@WORKFLOWS
def test_zizmor_finds_nothing_that_a_stranger_could_use(text: str, tmp_path: Path) -> None:
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if zizmor is None:
        pytest.skip("zizmor is not installed")
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "workflow.yml").write_text(text)
    shutil.copy(ROOT / ".github" / "zizmor.yml", tmp_path / ".github")
    done = subprocess.run([zizmor, "--offline", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- What no linter knows ----


@WORKFLOWS
def test_a_workflow_may_read_and_nothing_else_and_every_job_ends(text: str) -> None:
    said = yaml.safe_load(text)
    assert said["permissions"] == {"contents": "read"}
    for job in said["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60


@WORKFLOWS
def test_actions_are_pinned_by_version(text: str) -> None:
    used = [step["uses"] for step in steps(text) if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []


@WORKFLOWS
def test_what_is_compared_is_what_was_run_and_kept(text: str) -> None:
    jobs = yaml.safe_load(text)["jobs"]
    made = {entry["name"] for entry in jobs["suites"]["strategy"]["matrix"]["include"]}
    pairs = jobs["changes"].get("strategy", {}).get("matrix", {}).get("include", [])
    named = {entry[side] for entry in pairs for side in ("old", "new")}
    named |= set(re.findall(r"([a-z]+)\.sqlite", str(jobs["changes"]["steps"])))
    assert named == made
    (kept,) = [step["with"] for step in jobs["suites"]["steps"] if "upload-artifact" in step.get("uses", "")]
    (fetched,) = [step["with"] for step in jobs["changes"]["steps"] if "download-artifact" in step.get("uses", "")]
    assert kept["name"].startswith(fetched["pattern"].rstrip("*"))


def test_every_script_is_bash(tmp_path: Path) -> None:
    for script in scripts():
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_every_option_of_ours_exists() -> None:
    known = {name for words in commands() if words[0] == "conformance" for name in [words[1]]}
    assert {"across", "compare"} <= known
    pytest_help = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True)
    for words in commands():
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "pytest":
            known_here = set(re.findall(r"--[a-z-]+", pytest_help.stdout)) | {"--target", "--junitxml"}
        else:
            command = cli.commands.commands[words[1]]
            known_here = {name for p in command.params if isinstance(p, click.Option) for name in p.opts}
        assert options <= known_here, words


def test_versions_that_are_pinned_here_decide() -> None:
    """What `constraints.txt` has is what the documented deviations were written for."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for entry in yaml.safe_load(OURS)["jobs"]["suites"]["strategy"]["matrix"]["include"]:
        package, _, version = entry["packages"].split()[0].partition("==")
        is_pinned = pinned.get(package, "").startswith(version.rstrip("*") or "never")
        assert entry.get("pinned", False) is is_pinned, entry
