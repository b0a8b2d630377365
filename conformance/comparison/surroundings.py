"""What two runs were made with, what of it differs, and what cannot be compared for that reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conformance.comparison.model import Difference, Note, Side
from conformance.comparison.run import Run, texts
from conformance.comparison.words import plural

MACHINE = ("platform", "machine", "cpu", "python", "numpy", "threads", "jobs")
SELECTION = ("profile", "suites", "data")
NONE = "none"
ALL = "all"


def side(run: Run) -> Side:
    return Side(
        file=run.name,
        verdicts=len(run.cells),
        **{key: run.text(key) for key in ("conformance", "python", "platform", "profile", "threads", "started")},
        cpu=run.cpu,
        versions=run.texts("versions"),
        suites=run.text("suites") or ALL,
        data=run.text("data") or ALL,
        seed=run.seed,
        finished=run.finished,
    )


def differences(old: Run, new: Run) -> tuple[Difference, ...]:
    """Packages first, then the tool, the machine, and the settings of the targets that both have."""
    found = [*_between(old.texts("versions"), new.texts("versions"))]
    found += _between({"conformance": old.text("conformance")}, {"conformance": new.text("conformance")})
    found += [d for d in _between(_machine(old), _machine(new)) if NONE not in (d.old, d.new)]
    found += _cpu_features(old, new)
    return (*found, *_settings(old, new))


def _machine(run: Run) -> dict[str, str]:
    return {key: run.cpu if key == "cpu" else run.text(key) for key in MACHINE}


def _between(old: Mapping[str, str], new: Mapping[str, str], prefix: str = "") -> list[Difference]:
    return [
        Difference(what=prefix + key, old=old.get(key) or NONE, new=new.get(key) or NONE)
        for key in {**old, **new}
        if (old.get(key) or NONE) != (new.get(key) or NONE)
    ]


def _cpu_features(old: Run, new: Run) -> list[Difference]:
    """Instruction sets that one machine alone has; nothing where a run does not say what it has."""
    before, after = old.cpu_features, new.cpu_features
    if not (before and after) or before == after:
        return []
    only = [" ".join(sorted(features)) or NONE for features in (before - after, after - before)]
    return [Difference(what="cpu features", old=only[0][:200], new=only[1][:200])]


def _settings(old: Run, new: Run) -> Iterator[Difference]:
    """What targets say of themselves, but for the versions, which are told already, and the threads."""
    before, after = (run.environment.get("settings") for run in (old, new))
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return
    told = {*old.texts("versions"), *new.texts("versions"), "threads"}
    for target in [name for name in new.targets if name in before and name in after]:
        was, now = ({k: v for k, v in texts(s[target]).items() if k not in told} for s in (before, after))
        yield from _between(was, now, f"{target} ")


def notes(old: Run, new: Run, changed_cases: list[str]) -> Iterator[Note]:
    """What cannot be compared; ``changed_cases`` are those that say something else in the new run."""
    if changed_cases:
        named = ", ".join(changed_cases[:3]) + (", ..." if len(changed_cases) > 3 else "")
        says = "says" if len(changed_cases) == 1 else "say"
        text = f"{plural(len(changed_cases), 'case')} {says} something else now and cannot be compared: {named}"
        yield Note(about="case", text=text)
    if old.seed != new.seed:
        yield Note(about="seed", text=f"seed {old.seed} -> {new.seed}: errors are not compared, the numbers differ")
    if not same_tool(old, new):
        versions = f"{old.text('conformance') or 'unknown'} -> {new.text('conformance') or 'unknown'}"
        yield Note(
            about="conformance",
            text=f"conformance {versions}: errors are not compared, and it may judge otherwise",
        )
    for key in SELECTION:
        before, after = old.text(key) or ALL, new.text(key) or ALL
        if key in old.environment and key in new.environment and before != after:
            yield Note(about="cases", text=f"{key} {before} -> {after}: compared on the cells that both have")
    yield from _unfinished(old, new)
    if (old.text("repeat") or "1") != (new.text("repeat") or "1"):
        yield Note(about="repeat", text="results that differ between runs show only with --repeat, which differs")
    if apart := times_apart(old, new):
        yield Note(about="time", text=f"times are not compared: {', '.join(apart)}")


def _unfinished(old: Run, new: Run) -> Iterator[Note]:
    for name, run in (("old", old), ("new", new)):
        if run.finished is False:
            count = plural(len(run.cells), "verdict")
            yield Note(about="finished", text=f"the {name} run is not finished: compared on its {count}")


def same_tool(old: Run, new: Run) -> bool:
    return old.text("conformance") == new.text("conformance")


def errors_comparable(old: Run, new: Run) -> bool:
    """The same numbers were drawn and judged in the same way."""
    return old.seed == new.seed and same_tool(old, new)


def times_apart(old: Run, new: Run) -> list[str]:
    """Why times cannot be compared; what a run does not say is taken to be the same."""
    pairs = ((key, _machine(old)[key], _machine(new)[key]) for key in ("cpu", "machine", "threads", "jobs"))
    return [f"{key} {before} -> {after}" for key, before, after in pairs if before and after and before != after]
