"""YAML files to cases.  All errors of a file are told at once, each with file, line and key."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from conformance.dtypes import FORMATS
from conformance.errors import BadInput, Problem, SpecError
from conformance.spec import matrix as grid
from conformance.spec.adaptive import AdaptiveDeconvEntry
from conformance.spec.case import EDGE_KINDS, PUBLISHED, Case
from conformance.spec.conv_block import ConvBlockEntry
from conformance.spec.convolution import ConvEntry, ConvInputGradientEntry, ConvTransposeEntry
from conformance.spec.deconv_block import DeconvBlockEntry
from conformance.spec.deconvnet import DeconvnetEntry
from conformance.spec.fields import Entry, KeyedError, Name, show
from conformance.spec.marks import Document, KeyPath, dotted, read_document
from conformance.spec.nested import closest, words
from conformance.spec.onnx_entry import check_words, onnx_words
from conformance.spec.pooling import MaxPoolEntry, MaxUnpoolEntry
from conformance.spec.vectors import attach_vectors

OPS: dict[str, type[Entry]] = {
    "conv": ConvEntry,
    "conv_transpose": ConvTransposeEntry,
    "conv_input_gradient": ConvInputGradientEntry,
    "conv_block": ConvBlockEntry,
    "max_pool": MaxPoolEntry,
    "max_unpool": MaxUnpoolEntry,
    "deconv_block": DeconvBlockEntry,
    "deconvnet": DeconvnetEntry,
    "adaptive_deconv": AdaptiveDeconvEntry,
}
SUITE_KEYS = ("suite", "source", "notes", "defaults", "cases")
MAX_CASE_BYTES = 4 * 2**30

_Value = tuple[Any, KeyPath]  # a value and where it was written


def load_suite(path: Path, shown: str | None = None) -> list[Case]:
    """The cases of one file, in its order.

    ``shown`` is how messages name the file.  Raises SpecError with every problem of the file.
    """
    return _Loader(read_document(path, shown or str(path)), path.parent).load()


def make_case(**said: Any) -> Case:
    """One case from what YAML would say of it: ``make_case(op="conv_transpose", input=[8, 8], kernel=4, stride=2)``.

    Tuples are lists.  Raises SpecError with every problem, as for a file.
    """
    plain = json.loads(json.dumps(said, default=_number))
    text = yaml.safe_dump({"suite": "yours", "cases": {"case": plain}}, sort_keys=False)
    (case,) = _Loader(Document("make_case", text), Path()).load()
    return replace(case, location="")


def _number(value: Any) -> Any:
    """A number of NumPy's as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise BadInput(f"make_case: expected values as in YAML, got {type(value).__name__}")


class _Loader:
    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.folder = folder
        self.problems: list[Problem] = []
        self.seen: dict[str, int] = {}

    def load(self) -> list[Case]:
        cases = list(self._cases())
        if self.problems:
            raise SpecError(self.problems)
        return cases

    def _problem(self, path: KeyPath, message: str, key: str | None = None) -> None:
        self.problems.append(Problem(self.document.file, self.document.line(path), key or dotted(path), message))

    def _cases(self) -> Iterator[Case]:
        top = self.document.value
        if not isinstance(top, dict) or "suite" not in top or "cases" not in top:
            self._problem((), f"expected a suite: a mapping with suite and cases (and {', '.join(SUITE_KEYS[1:4])})")
            return
        for key in top.keys() - set(SUITE_KEYS):
            self._problem((key,), f"unknown key{_closest(key, SUITE_KEYS)}")
        self._name(("suite",), top["suite"])
        for key in ("source", "notes"):
            if not isinstance(top.get(key, ""), str):
                self._problem((key,), f"expected text, got {show(top[key])}")
        defaults = self._mapping(("defaults",), top.get("defaults", {}))
        for name, entry in self._mapping(("cases",), top["cases"]).items():
            path: KeyPath = ("cases", name)
            self._name(path, name)
            values: dict[str, _Value] = {key: (value, ("defaults", key)) for key, value in defaults.items()}
            if "source" in top:
                values.setdefault("source", (top["source"], ("source",)))
            yield from self._entry(f"{top['suite']}/{name}", path, values, self._mapping(path, entry))

    def _name(self, path: KeyPath, name: Any) -> None:
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            self._problem(path, error.errors()[0]["msg"])

    def _mapping(self, path: KeyPath, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self._problem(path, f"expected a mapping, got {show(value)}")
        return {}

    def _entry(self, id: str, path: KeyPath, values: dict[str, _Value], entry: dict[str, Any]) -> Iterator[Case]:
        values |= {key: (value, (*path, key)) for key, value in entry.items() if key not in ("matrix", "exclude")}
        matrix = self._matrix((*path, "matrix"), entry.get("matrix"))
        exclude = self._exclude((*path, "exclude"), entry.get("exclude"), matrix)
        if grid.size(matrix) > grid.MAX_CASES:
            self._problem((*path, "matrix"), f"expected at most {grid.MAX_CASES} combinations, got {grid.size(matrix)}")
            return
        for chosen in grid.assignments(matrix, exclude):
            variant = values | {key: (matrix[key][at], (*path, "matrix", key, at)) for key, at in chosen.items()}
            labels = ",".join(grid.label(key, matrix[key][at]) for key, at in chosen.items())
            yield from self._case(f"{id}[{labels}]" if labels else id, path, variant)

    def _matrix(self, path: KeyPath, value: Any) -> dict[str, list[Any]]:
        matrix = self._mapping(path, value)
        for key, values in matrix.items():
            if not isinstance(values, list) or not values:
                self._problem((*path, key), f"expected a list of values, got {show(values)}")
        return {key: values for key, values in matrix.items() if isinstance(values, list)}

    def _exclude(self, path: KeyPath, value: Any, matrix: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        if value is None:
            return []
        if not isinstance(value, list):
            self._problem(path, f"expected a list of mappings, got {show(value)}")
            return []
        lines = []
        for n, item in enumerate(value):
            line = self._mapping((*path, n), item)
            for key, wanted in line.items():
                if key not in matrix:
                    self._problem((*path, n, key), f"expected a key of matrix ({', '.join(matrix)})")
                elif not any(grid.same(wanted, have) for have in matrix[key]):
                    self._problem((*path, n, key), f"expected a value of matrix.{key}, got {show(wanted)}")
            if line:
                lines.append(line)
        return [line for line in lines if line.keys() <= matrix.keys()]

    def _case(self, id: str, path: KeyPath, values: dict[str, _Value]) -> Iterator[Case]:
        op = values.get("op", (None, path))
        model = OPS.get(op[0]) if isinstance(op[0], str) else None
        if model is None:
            self._problem(op[1], f"expected op, one of {', '.join(OPS)}, got {show(op[0])}")
            return
        values = {key: value for key, value in values.items() if not self._meant_for_others(key, value[1], model)}
        try:
            entry = model.model_validate({key: value for key, (value, _) in values.items()})
            case = self._resolve(id, path, entry)
        except ValidationError as error:
            self._invalid(error, model, path, values)
        except KeyedError as error:
            first, *rest = error.key.split(".")
            where = values.get(first, (None, path))[1]
            inside = (*where, *(int(part) if part.isdigit() else part for part in rest))
            self._problem(inside, str(error), dotted((*path, first, *inside[len(where) :])))
        else:
            if id in self.seen:
                self._problem(path, f"the id {id} stands for two cases")
            self.seen[id] = 1
            yield case

    def _meant_for_others(self, key: str, where: KeyPath, model: type[Entry]) -> bool:
        """Whether a default is one that other ops of the file know, and this one does not."""
        known = any(key in OPS[op].model_fields for op in self._ops if op in OPS)
        return where[:1] == ("defaults",) and key not in model.model_fields and known

    @functools.cached_property
    def _ops(self) -> set[str]:
        """All ops that the file names."""
        top = self.document.value
        cases = top["cases"].values() if isinstance(top["cases"], dict) else ()
        entries = [entry for entry in (top.get("defaults"), *cases) if isinstance(entry, dict)]
        grids = [entry["matrix"] for entry in entries if isinstance(entry.get("matrix"), dict)]
        named = [entry.get("op") for entry in entries]
        named += [op for grid_ in grids if isinstance(grid_.get("op"), list) for op in grid_["op"]]
        return {op for op in named if isinstance(op, str)}

    def _resolve(self, id: str, path: KeyPath, entry: Entry) -> Case:
        common = {
            "id": id,
            "op": entry.op,
            "dtype": entry.dtype,
            "batch": entry.batch,
            "tags": entry.tags,
            "notes": entry.notes,
            "source": entry.source,
            "location": f"{self.document.file}:{self.document.line(path)}",
        }
        case: Case = entry.resolve(common | {"data": data_kinds(entry), "onnx": onnx_words(entry)})
        check_words(case)
        if (size := case.elements * FORMATS[case.dtype].dtype.itemsize) > MAX_CASE_BYTES:
            raise KeyedError("input", f"too large: {size:,} bytes of tensors, expected at most {MAX_CASE_BYTES:,}")
        vectors = attach_vectors(case, entry.tensors, entry.expected, entry.vectors, entry.decimals, self.folder)
        return case if vectors is None else replace(case, vectors=vectors, data=(PUBLISHED,))

    def _invalid(self, error: ValidationError, model: type[Entry], path: KeyPath, values: Mapping[str, _Value]) -> None:
        for detail in error.errors():
            key = str(detail["loc"][0]) if detail["loc"] else ""
            where = values.get(key, (None, path))[1]
            required = f"required for op {model.model_fields['op'].annotation.__args__[0]}"  # type: ignore[union-attr]
            message = words(detail, model.model_fields, required, ("matrix", "exclude"))
            self._problem(where, message, dotted((*path, key)))


def data_kinds(entry: Entry) -> tuple[str, ...]:
    """The kinds of data that a case is run with.  Raises KeyedError where none is left or one is out of place."""
    named = entry.data or ("exact", "rounding")
    edges = tuple(kind for kind in EDGE_KINDS if kind in entry.kinds)
    kinds = [kind for name in named for kind in (edges if name == "edge" else (name,))]
    for kind in kinds:
        if kind not in entry.kinds:
            raise KeyedError("data", f"expected one or a list of {', '.join(entry.kinds)} for {entry.op}, got {kind}")
    refused = entry.refused()
    if not (left := tuple(kind for kind in dict.fromkeys(kinds) if kind not in refused)):
        reasons = "; ".join(f"no {kind} data: {refused[kind]}" for kind in dict.fromkeys(kinds) if kind in refused)
        raise KeyedError("data", reasons or f"{entry.op} has no edge data")
    return left


def _closest(key: str, keys: Iterable[str]) -> str:
    return closest(key, tuple(keys), ("matrix", "exclude"))


_NAME: TypeAdapter[str] = TypeAdapter(Name)
