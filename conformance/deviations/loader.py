"""YAML files to deviations.  All errors of a file are told at once, each with file, line and key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from conformance.deviations.entry import ALWAYS, SOMETIMES, Deviation, Shows
from conformance.deviations.parameters import VOCABULARY
from conformance.deviations.predicate import BadPredicate, Predicate, unknown
from conformance.dtypes import FORMATS
from conformance.errors import BadInput, Problem, SpecError
from conformance.spec import DATA_KINDS
from conformance.spec.fields import Strict, Text, Written, one_of, several, show, word
from conformance.spec.loader import OPS
from conformance.spec.marks import Document, KeyPath, dotted, read_document
from conformance.spec.nested import closest, words
from conformance.spec.suites import shipped_folder
from conformance.verdict import FAILED

KEYS = ("deviations", "defaults", "entries")
PREDICTABLE = tuple(verdict for verdict in FAILED if verdict != "fixed")
_METHODS = ("startswith", "endswith")


def _ranges(value: Any) -> tuple[tuple[str, SpecifierSet], ...]:
    expected = 'expected packages with their ranges, such as {keras: ">=3.10,<3.15.1"}'
    if not isinstance(value, dict) or not value or not all(isinstance(v, str) for v in value.values()):
        raise PydanticCustomError("expected", "{what}, got {value}", {"what": expected, "value": show(value)})
    try:
        return tuple((package, SpecifierSet(said)) for package, said in value.items())
    except InvalidSpecifier:
        raise PydanticCustomError("expected", "{what}, got {value}", {"what": expected, "value": show(value)}) from None


def _predicate(value: Any) -> Predicate | None:
    try:
        predicate = Predicate(value if isinstance(value, str) else "")
    except BadPredicate as error:
        raise PydanticCustomError("expected", "{what}", {"what": str(error)}) from None
    if strange := unknown(predicate.names, VOCABULARY | set(_METHODS)):
        what = f"unknown name {strange[0]}{closest(strange[0], tuple(sorted(VOCABULARY)))}"
        raise PydanticCustomError("expected", "{what}", {"what": what})
    return predicate


def _paragraph(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("expected", "expected text, got {value}", {"value": show(value)})
    return " ".join(value.split())


Targets = Annotated[tuple[str, ...], several(None, "names of targets")]
Ranges = Annotated[Any, Written(_ranges, {"type": "object", "additionalProperties": {"type": "string"}})]
Expression = Annotated[Any, Written(_predicate, {"type": "string"})]
Paragraph = Annotated[str, Written(_paragraph, {"type": "string"})]
Words = Annotated[tuple[str, ...], several(None, "instruction sets")]
Ops = Annotated[tuple[str, ...], several(tuple(OPS), ", ".join(OPS))]
Dtypes = Annotated[tuple[str, ...], several(tuple(FORMATS), ", ".join(FORMATS))]
Data = Annotated[tuple[str, ...], several(DATA_KINDS, ", ".join(DATA_KINDS))]
FailingVerdict = Annotated[str, one_of(PREDICTABLE)]
ShowsWord = Annotated[Shows, one_of((ALWAYS, SOMETIMES))]
Reference = Annotated[str, word(r"\S.*", "where it is told: an address, or a place in the documentation")]


class DeviationEntry(Strict):
    """A deviation as it is written."""

    target: Targets
    versions: Ranges
    cpu: Words = ()
    op: Ops = ()
    dtype: Dtypes = ()
    data: Data = ()
    where: Expression = None
    verdict: FailingVerdict
    reading: Text = ""
    shows: ShowsWord = "always"
    reference: Reference
    why: Paragraph

    def resolve(self, id: str, location: str) -> Deviation:
        return Deviation(
            id=id,
            location=location,
            targets=self.target,
            versions=self.versions,
            verdict=self.verdict,
            reading=self.reading,
            shows=self.shows,
            reference=self.reference,
            why=self.why,
            cpu=self.cpu,
            ops=self.op,
            dtypes=self.dtype,
            data=self.data,
            where=self.where,
        )


def shipped_deviations() -> list[Path]:
    """The files of deviations that come with the suites."""
    return sorted((shipped_folder() / "deviations").glob("*.yaml"))


def load_deviations(paths: Iterable[Path] = (), shipped: bool = True) -> list[Deviation]:
    """The deviations of files, and of all files in folders; those that are shipped too, unless told otherwise.

    Raises SpecError with the problems of all files, and BadInput for a path that is not there.
    """
    files = [(path, f"cases/deviations/{path.name}") for path in shipped_deviations()] if shipped else []
    files += [(file, str(file)) for path in paths for file in _files(path)]
    problems: list[Problem] = []
    found: dict[str, Deviation] = {}
    for path, shown in files:
        try:
            for deviation in _Reader(read_document(path, shown)).read():
                if (other := found.setdefault(deviation.id, deviation)) is not deviation:
                    file, _, line = deviation.location.rpartition(":")
                    problems.append(Problem(file, int(line), deviation.id, f"is also in {other.location}"))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
    if not path.is_file():
        raise BadInput(f"{path}: expected a YAML file of deviations, or a folder of them")
    return [path]


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def read(self) -> list[Deviation]:
        found = list(self._deviations())
        if self.problems:
            raise SpecError(self.problems)
        return found

    def _problem(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.document.file, self.document.line(path), dotted(path), message))

    def _deviations(self) -> Iterator[Deviation]:
        top = self.document.value
        if not isinstance(top, dict) or not isinstance(top.get("deviations"), str) or "entries" not in top:
            self._problem((), f"expected a mapping with {', '.join(KEYS)} (deviations is the name of the file's group)")
            return
        for key in top.keys() - set(KEYS):
            self._problem((key,), f"unknown key{closest(key, KEYS)}")
        defaults = self._mapping(("defaults",), top.get("defaults"))
        for name, entry in self._mapping(("entries",), top["entries"]).items():
            path: KeyPath = ("entries", name)
            places: dict[str, KeyPath] = {key: ("defaults", key) for key in defaults}
            said = self._mapping(path, entry)
            places |= {key: (*path, key) for key in said}
            yield from self._entry(f"{top['deviations']}/{name}", path, defaults | said, places)

    def _mapping(self, path: KeyPath, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self._problem(path, f"expected a mapping, got {show(value)}")
        return {}

    def _entry(self, id: str, path: KeyPath, values: dict[str, Any], places: dict[str, KeyPath]) -> Iterator[Deviation]:
        try:
            entry = DeviationEntry.model_validate(values)
        except ValidationError as error:
            for detail in error.errors():
                key = str(detail["loc"][0]) if detail["loc"] else ""
                keys = DeviationEntry.model_fields
                self._problem(places.get(key, (*path, key)), words(detail, keys, "required for a deviation"))
        else:
            yield entry.resolve(id, f"{self.document.file}:{self.document.line(path)}")
