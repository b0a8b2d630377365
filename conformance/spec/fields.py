"""The kinds of value that a case is written with, each with its message and its JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from conformance.arithmetic.spellings import AutoPad, Mode, Pair
from conformance.dtypes import FORMATS
from conformance.spec.case import DRAWN_KINDS, PROPERTIES
from conformance.spec.onnx_words import ONNX_OPERATORS, WEIGHTS_FROM, WeightsFrom
from conformance.spec.steps import (
    BIAS_DOWNS,
    DIRECTIONS,
    ISOLATIONS,
    NORM_DOWNS,
    OVERLAPS,
    RECTIFICATIONS,
    SEEDS,
    SWITCHES,
    BiasDown,
    Direction,
    Isolation,
    NormDown,
    Overlap,
    Rectification,
    Seed,
    Switches,
)

MAX_SIZE = 2**31 - 1
MAX_SMALL = 16
"""The size of numbers that may stand among those of exact data."""


@dataclass(frozen=True, eq=False)
class Written:
    """How a value is written in YAML: the function that reads it, and the JSON Schema that says the same to editors."""

    parse: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return self.schema


def _expected(what: str, value: Any) -> PydanticCustomError:
    return PydanticCustomError("expected", "expected {what}, got {value}", {"what": what, "value": show(value)})


def show(value: Any) -> str:
    """A value as it would be written in YAML, cut to a line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def is_integer(value: Any, low: int, high: int = MAX_SIZE) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int = MAX_SIZE) -> Written:
    what = f"an integer >= {low}" if high == MAX_SIZE else f"an integer from {low} to {high}"

    def parse(value: Any) -> int:
        if not is_integer(value, low, high):
            raise _expected(what, value)
        return int(value)

    return Written(parse, {"type": "integer", "minimum": low, "maximum": high})


def _sizes(low: int, scalar: bool) -> Written:
    each = f"integers >= {low}, one per spatial axis"
    what = f"an integer >= {low}, or a list of {each}" if scalar else f"a list of 1 to 3 {each}"

    def parse(value: Any) -> int | tuple[int, ...]:
        if scalar and is_integer(value, low):
            return int(value)
        if isinstance(value, list) and 1 <= len(value) <= 3 and all(is_integer(v, low) for v in value):
            return tuple(value)
        raise _expected(what, value)

    item = {"type": "integer", "minimum": low, "maximum": MAX_SIZE}
    items = {"type": "array", "items": item, "minItems": 1, "maxItems": 3}
    return Written(parse, {"anyOf": [item, items]} if scalar else items)


_PAD = {"type": "integer", "minimum": -MAX_SIZE, "maximum": MAX_SIZE}
_PADS = {"type": "array", "items": _PAD, "minItems": 2, "maxItems": 2}


_ROWS = [_PAD, {"type": "array", "items": {"anyOf": [_PAD, _PADS]}, "minItems": 1, "maxItems": 3}]
_PADDING = {"anyOf": [{"enum": ["same", "valid"]}, *_ROWS]}


def _padding(value: Any) -> Any:
    if value in ("same", "valid"):
        return value
    return _pads(value, "an integer, one integer or [begin, end] pair per spatial axis, same or valid")


def _pads(value: Any, what: str = "an integer, or one integer or [begin, end] pair per spatial axis") -> Any:
    def pad(v: Any) -> bool:
        return is_integer(v, -MAX_SIZE)

    def pair(v: Any) -> bool:
        return isinstance(v, list) and len(v) == 2 and all(map(pad, v))

    if pad(value):
        return value
    if isinstance(value, list) and 1 <= len(value) <= 3 and all(pad(v) or pair(v) for v in value):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    raise _expected(what, value)


def word(pattern: str, what: str) -> Written:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _expected(what, value)
        return value

    return Written(parse, {"type": "string", "pattern": f"^{pattern}$"})


def one_of(words: tuple[str, ...]) -> Written:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise _expected(f"one of {', '.join(words)}", value)
        return value

    return Written(parse, {"enum": list(words)})


def several(words: tuple[str, ...] | None, what: str) -> Written:
    """One word or a list of them."""

    def parse(value: Any) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise _expected(f"one or a list of {what}", value)
        for v in values:
            if words is not None and v not in words:
                raise _expected(f"one or a list of {what}", v)
        return tuple(dict.fromkeys(values))

    item = {"type": "string"} if words is None else {"enum": list(words)}
    return Written(parse, {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expected("a mapping", value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _expected("text", value)
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e30:
        raise _expected("a number >= 0", value)
    return float(value)


def _strongest_or(what: Written, name: str) -> Written:
    """``max``, or what else ``what`` reads."""

    def parse(value: Any) -> Any:
        try:
            return None if value == "max" else what.parse(value)
        except PydanticCustomError:
            raise _expected(f"max or {name}", value) from None

    return Written(parse, {"anyOf": [{"const": "max"}, what.schema]})


_KINDS = (*DRAWN_KINDS, "edge", *PROPERTIES)
_OPTIONAL = tuple(dict.fromkeys(name for operator in ONNX_OPERATORS.values() for name in operator.optional))

Count = Annotated[int, _integer(0)]
Positive = Annotated[int, _integer(1)]
PerAxis = Annotated[int | tuple[int, ...], _sizes(1, scalar=True)]
PerAxisOrZero = Annotated[int | tuple[int, ...], _sizes(0, scalar=True)]
SpatialSize = Annotated[tuple[int, ...], _sizes(1, scalar=False)]
Padding = Annotated[int | str | tuple[int | tuple[int, int], ...], Written(_padding, _PADDING)]
Rows = Annotated[int | tuple[int | tuple[int, int], ...], Written(_pads, {"anyOf": _ROWS})]
SmallInteger = Annotated[int, _integer(-MAX_SMALL, MAX_SMALL)]
Name = Annotated[str, word(r"[A-Za-z0-9][A-Za-z0-9._+-]*", "a name of letters, digits and . _ + -")]
Dtype = Annotated[str, one_of(tuple(FORMATS))]
AutoPadName = Annotated[AutoPad, one_of(get_args(AutoPad))]
Kinds = Annotated[tuple[str, ...], several(_KINDS, ", ".join(_KINDS))]
Tags = Annotated[tuple[str, ...], several(None, "words")]
Real = Annotated[float, Written(_real, {"type": "number", "minimum": 0})]
ChannelChoice = Annotated[int | None, _strongest_or(_integer(0), "the number of a channel")]
UnitChoice = Annotated[
    tuple[int, ...] | None, _strongest_or(_sizes(0, scalar=False), "a position, one integer per axis")
]
OverlapName = Annotated[Overlap, one_of(OVERLAPS)]
RectificationName = Annotated[Rectification, one_of(RECTIFICATIONS)]
IsolationName = Annotated[Isolation, one_of(ISOLATIONS)]
SeedName = Annotated[Seed, one_of(SEEDS)]
NormDownName = Annotated[NormDown, one_of(NORM_DOWNS)]
BiasDownName = Annotated[BiasDown, one_of(BIAS_DOWNS)]
DirectionName = Annotated[Direction, one_of(DIRECTIONS)]
Opset = Annotated[int, _integer(1, 99)]
OmittedNames = Annotated[tuple[str, ...], several(_OPTIONAL, ", ".join(_OPTIONAL))]
WeightsName = Annotated[WeightsFrom, one_of(WEIGHTS_FROM)]
StorageOrder = Annotated[int, _integer(0, 1)]
OnnxMapping = Annotated[dict[str, Any], Written(_mapping, {"type": "object"})]
SwitchesName = Annotated[Switches, one_of(SWITCHES)]
Boolean = Annotated[bool, Written(_boolean, {"type": "boolean"})]
Text = Annotated[str, Written(_text, {"type": "string"})]
Numbers = Annotated[Any, Written(lambda value: value, {"type": ["number", "string", "array"]})]


class Strict(BaseModel):
    """A model that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Entry(Strict):
    """What every case may say, whatever its op."""

    kinds: ClassVar[tuple[str, ...]] = DRAWN_KINDS
    """The kinds of data that the op has."""

    op: str
    dtype: Dtype = "float32"
    batch: Count = 1
    data: Kinds | None = None
    tags: Tags = ()
    notes: Text = ""
    source: Text = ""
    tensors: dict[str, Numbers] | None = None
    expected: dict[str, Numbers] | None = None
    vectors: Text | None = None
    decimals: Count | None = None
    onnx: OnnxMapping | None = None

    def refused(self) -> dict[str, str]:
        """Kinds of data that these values leave no room for, with the reason."""
        rounding = "what the oracle sums in float64 without rounding every honest float64 target does too"
        refused = {"rounding": rounding} if self.dtype == "float64" else {}
        if self.onnx is not None:
            refused |= dict.fromkeys(PROPERTIES, "words of ONNX say how one node is written, and a property needs two")
        return refused

    def resolve(self, common: dict[str, Any]) -> Any:
        """The case that this entry describes.  Raises KeyedError where its values do not fit together."""
        raise NotImplementedError


class KeyedError(ValueError):
    """Something is wrong with the value of one key."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def per_axis(key: str, value: Any, rank: int) -> tuple[int, ...]:
    """The value of ``key`` for each axis.  Raises KeyedError where their number is wrong."""
    if not isinstance(value, tuple):
        return (value,) * rank
    if len(value) != rank:
        raise KeyedError(key, f"expected {rank} values, one per axis of input, got {len(value)}")
    return value


def pads_per_axis(value: Any, rank: int, key: str = "padding") -> tuple[Pair, ...] | Mode:
    """``padding`` as ``(begin, end)`` per axis, or the word."""
    if value == "same" or value == "valid":
        return value  # type: ignore[no-any-return]
    values = per_axis(key, value or 0, rank)
    return tuple(v if isinstance(v, tuple) else (v, v) for v in values)


def few_bits(dtype: str) -> dict[str, str]:
    """Why chains of convolutions have no data in 16 bits whose sums are exact."""
    kinds = ("exact", "gradient", "adjoint", "linearity")
    return dict.fromkeys(kinds, f"{dtype} cannot hold the sums") if FORMATS[dtype].precision < 24 else {}
