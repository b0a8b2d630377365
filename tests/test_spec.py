"""The loader: what a suite may say, and every word of what it is told when it says something else."""

from __future__ import annotations

import io
import math
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.dtypes import FORMATS
from conformance.errors import BadInput, SpecError
from conformance.spec import (
    DATA_KINDS,
    EDGE_KINDS,
    Case,
    Chain,
    Convolution,
    Pooling,
    load_cases,
    load_suite,
    marks,
    shipped_suites,
    suite_schema,
)
from conformance.spec import loader as loading
from conformance.spec.fields import KeyedError
from conformance.spec.loader import OPS
from conformance.spec.marks import Document
from conformance.spec.vectors import read_npz

NAMES = (
    "conv, conv_transpose, conv_input_gradient, conv_block, max_pool, max_unpool, "
    "deconv_block, deconvnet, adaptive_deconv"
)
EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], list[Convolution]]:
    """Load a suite given as text; messages call it s.yaml."""

    def load(text: str) -> list[Convolution]:
        path = tmp_path / "s.yaml"
        path.write_text(dedent(text), encoding="utf-8")
        cases = load_suite(path, "s.yaml")
        assert all(isinstance(case, Convolution) for case in cases)
        return cases  # type: ignore[return-value]

    return load


@pytest.fixture
def refuse(load: Load) -> Callable[[str], str]:
    """What the loader says of a suite that it refuses."""

    def refuse(text: str) -> str:
        with pytest.raises(SpecError) as refused:
            load(text)
        return str(refused.value)

    return refuse


Load = Callable[[str], list[Convolution]]
Refuse = Callable[[str], str]


def one(keys: str, op: str = "conv_transpose") -> str:
    """A suite of one case, on line 3."""
    return f"suite: s\ncases:\n  c: {{op: {op}, {keys}}}\n"


# ---- What a suite may say ----


def test_a_case_is_what_its_lines_say(load: Load) -> None:
    (case,) = load(
        """\
        suite: mine
        source: "arXiv:1603.07285"
        notes: some words
        defaults: {op: conv_transpose, batch: 2, bias: true}
        cases:
          one:
            in_channels: 4
            out_channels: 6
            groups: 2
            dtype: float16
            input: [3, 4]
            kernel: [2, 3]
            stride: [2, 1]
            padding: [1, 0]
            dilation: [1, 2]
            output_padding: [1, 0]
            output: [5, 8]
            tags: [gaps, full]
            notes: other words
        """
    )
    assert (case.id, case.suite, case.location) == ("mine/one", "mine", "s.yaml:6")
    assert (case.op, case.dtype, case.batch, case.bias) == ("conv_transpose", "float16", 2, True)
    assert (case.in_channels, case.out_channels, case.groups) == (4, 6, 2)
    assert (case.small, case.kernel, case.stride, case.dilation) == ((3, 4), (2, 3), (2, 1), (1, 2))
    assert case.crop == ((1, 0), (0, 0))
    assert case.tensor_shapes == {"input": (2, 4, 3, 4), "weight": (4, 3, 2, 3), "bias": (6,)}
    assert case.result_shapes == {"output": (2, 6, 5, 8)}
    assert (case.tags, case.notes, case.source) == (("gaps", "full"), "other words", "arXiv:1603.07285")
    assert case.data == ("exact", "rounding")


def test_what_is_not_said_has_its_default(load: Load) -> None:
    (case,) = load(one("input: [3], kernel: 2"))
    assert (case.dtype, case.batch, case.in_channels, case.out_channels, case.groups) == ("float32", 1, 1, 1, 1)
    assert (case.bias, case.stride, case.dilation, case.padding) == (False, (1,), (1,), ((0, 0),))
    assert (case.tags, case.notes, case.source, case.relationship, case.vectors) == ((), "", "", None, None)


def test_a_case_overrides_the_defaults_of_its_suite(load: Load) -> None:
    cases = load(
        """\
        suite: s
        source: suite
        defaults: {op: conv, kernel: 3, source: defaults}
        cases:
          a: {input: [5]}
          b: {input: [5], kernel: 2, op: conv_transpose, source: case}
        """
    )
    assert [(c.op, c.kernel, c.source) for c in cases] == [("conv", (3,), "defaults"), ("conv_transpose", (2,), "case")]


def test_a_matrix_stands_for_every_combination_in_order(load: Load) -> None:
    cases = load(
        """\
        suite: s
        defaults: {op: conv_transpose, input: [5, 5]}
        cases:
          sweep:
            matrix: {kernel: [2, [3, 4]], stride: [1, [2, 3]]}
        """
    )
    assert [c.id for c in cases] == [
        "s/sweep[kernel=2,stride=1]",
        "s/sweep[kernel=2,stride=2x3]",
        "s/sweep[kernel=3x4,stride=1]",
        "s/sweep[kernel=3x4,stride=2x3]",
    ]
    assert [(c.kernel, c.stride) for c in cases][2:] == [((3, 4), (1, 1)), ((3, 4), (2, 3))]


def test_values_of_all_kinds_have_a_place_in_an_id(load: Load) -> None:
    cases = load(
        """\
        suite: s
        cases:
          a: {op: conv_transpose, input: [5, 5], kernel: 3, matrix: {padding: [[[1, 2], 0], same, -1], bias: [true]}}
          b: {input: [5], kernel: 1, matrix: {op: [conv], dtype: [bfloat16]}}
        """
    )
    assert [c.id for c in cases] == [
        "s/a[padding=1:2x0,bias=true]",
        "s/a[padding=same,bias=true]",
        "s/a[padding=-1,bias=true]",
        "s/b[op=conv,dtype=bfloat16]",
    ]


def test_exclude_leaves_out_what_matches_a_whole_line(load: Load) -> None:
    cases = load(
        """\
        suite: s
        cases:
          c:
            op: conv_transpose
            input: [4]
            matrix: {kernel: [2, 3], stride: [1, 2], bias: [true, false]}
            exclude: [{kernel: 2, stride: 1}, {kernel: 3, bias: true}]
        """
    )
    assert [(c.kernel[0], c.stride[0], c.bias) for c in cases] == [
        (2, 2, True),
        (2, 2, False),
        (3, 1, False),
        (3, 2, False),
    ]


def test_exclude_tells_1_from_true(refuse: Refuse) -> None:
    said = refuse(one("input: [4], kernel: 1, matrix: {batch: [1, 2]}, exclude: [{batch: true}]"))
    assert said == "s.yaml:3: cases.c.exclude[0].batch: expected a value of matrix.batch, got true"


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        ("data: exact", ("exact",)),
        ("data: [rounding, exact]", ("rounding", "exact")),
        ("data: edge", EDGE_KINDS),
        ("data: [edge-nan, edge]", EDGE_KINDS),
        ("data: [exact, edge-inf, exact]", ("exact", "edge-inf")),
        ("dtype: float64", ("exact",)),
        ("dtype: float64, data: [exact, rounding, edge-zero]", ("exact", "edge-zero")),
    ],
)
def test_kinds_of_data(load: Load, keys: str, kinds: tuple[str, ...]) -> None:
    (case,) = load(one(f"input: [4], kernel: 1, {keys}"))
    assert case.data == kinds
    assert set(kinds) <= set(DATA_KINDS)


@pytest.mark.parametrize(
    ("op", "keys", "crop", "size"),
    [
        ("conv_transpose", "padding: 1", (1, 1), 7),
        ("conv_transpose", "padding: [[2, 0]]", (2, 0), 7),
        ("conv_transpose", "padding: [1]", (1, 1), 7),
        ("conv_transpose", "padding: -1", (-1, -1), 11),
        ("conv_transpose", "padding: 1, output_padding: 1", (1, 0), 8),
        ("conv_transpose", "output_padding: [1]", (0, -1), 10),
        ("conv_transpose", "padding: 1, output_size: 8", (1, 0), 8),
        ("conv_transpose", "padding: 1, output_size: [7]", (1, 1), 7),
        ("conv_transpose", "padding: same", (0, 1), 8),
        ("conv_transpose", "padding: same, output_padding: 0", (1, 1), 7),
        ("conv_transpose", "padding: same, output_padding: 1", (0, 1), 8),
        ("conv_transpose", "padding: valid", (0, 0), 9),
        ("conv_transpose", "padding: valid, output_padding: 1", (0, -1), 10),
        ("conv_transpose", "auto_pad: SAME_UPPER", (0, 1), 8),
        ("conv_transpose", "auto_pad: SAME_LOWER", (1, 0), 8),
        ("conv_transpose", "auto_pad: SAME_UPPER, output_padding: 1", (1, 0), 8),
        ("conv_transpose", "auto_pad: VALID", (0, 0), 9),
        ("conv_transpose", "auto_pad: NOTSET, padding: 1", (1, 1), 7),
        ("conv_transpose", "output_shape: 8", (1, 0), 8),
        ("conv_transpose", "output_shape: [8], auto_pad: SAME_UPPER", (0, 1), 8),
        ("conv_transpose", "output_shape: 6, auto_pad: NOTSET", (2, 1), 6),
    ],
)
def test_every_spelling_of_a_transposed_size_resolves(
    load: Load, op: str, keys: str, crop: tuple[int, int], size: int
) -> None:
    """Four inputs, kernel 3, stride 2: nine rows in full."""
    (case,) = load(one(f"input: [4], kernel: 3, stride: 2, {keys}", op))
    assert (case.crop, case.large, case.small) == ((crop,), (size,), (4,))


DIRECT = [
    ("padding: 1", 1, 4),
    ("padding: [[0, 1]]", 0, 4),
    ("padding: [[3, 0]]", 3, 5),
    ("padding: same", 0, 4),
    ("padding: valid", 0, 3),
]
DIRECT_ONNX = [
    ("auto_pad: SAME_UPPER", 0, 4),
    ("auto_pad: SAME_LOWER", 1, 4),
    ("auto_pad: VALID", 0, 3),
    ("auto_pad: NOTSET, padding: 1", 1, 4),
]


@pytest.mark.parametrize(
    ("op", "keys", "begin", "size"),
    [
        *(("conv", *spelling) for spelling in DIRECT + DIRECT_ONNX),
        *(("conv_input_gradient", *spelling) for spelling in DIRECT),
    ],
)
def test_every_spelling_of_a_direct_size_resolves(load: Load, op: str, keys: str, begin: int, size: int) -> None:
    """Eight inputs, kernel 3, stride 2."""
    (case,) = load(one(f"input: [8], kernel: 3, stride: 2, {keys}", op))
    assert (case.axes[0].begin, case.small, case.large) == (begin, (size,), (8,))


def test_what_an_op_is_fed_and_returns_has_the_layout_of_pytorch(load: Load) -> None:
    common = "batch: 2, in_channels: 4, out_channels: 6, groups: 2, input: [5, 6], kernel: [3, 2]"
    shapes = {}
    for op in ("conv", "conv_transpose", "conv_input_gradient"):
        (case,) = load(one(common, op))
        shapes[op] = (case.tensor_shapes["input"], case.tensor_shapes["weight"], case.result_shapes["output"])
    assert shapes == {
        "conv": ((2, 4, 5, 6), (6, 2, 3, 2), (2, 6, 3, 5)),
        "conv_transpose": ((2, 4, 5, 6), (4, 3, 3, 2), (2, 6, 7, 7)),
        "conv_input_gradient": ((2, 6, 3, 5), (6, 2, 3, 2), (2, 4, 5, 6)),
    }


# ---- What it is told otherwise: file, line, key and what was expected ----


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("strides: 2, input: [3], kernel: 1", "strides: unknown key; did you mean stride?"),
        ("paddding: 2, input: [3], kernel: 1", "paddding: unknown key; did you mean padding?"),
        ("input: [3], kernel: 1, matrxi: {}", "matrxi: unknown key; did you mean matrix?"),
        ("input: [3]", "kernel: required for op conv_transpose"),
        ("kernel: 3", "input: required for op conv_transpose"),
        ("input: 3, kernel: 1", "input: expected a list of 1 to 3 integers >= 1, one per spatial axis, got 3"),
        ("input: [], kernel: 1", "input: expected a list of 1 to 3 integers >= 1, one per spatial axis, got []"),
        ("input: [1, 2, 3, 4], kernel: 1",
         "input: expected a list of 1 to 3 integers >= 1, one per spatial axis, got [1, 2, 3, 4]"),
        ("input: [0], kernel: 1", "input: expected a list of 1 to 3 integers >= 1, one per spatial axis, got [0]"),
        ("input: [3], kernel: 0",
         "kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got 0"),
        ("input: [3], kernel: 1.5",
         "kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got 1.5"),
        ("input: [3], kernel: three",
         'kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got "three"'),
        ("input: [3], kernel: true",
         "kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got true"),
        ("input: [3], kernel: 99999999999",
         "kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got 99999999999"),
        ("input: [3, 3], kernel: [3]", "kernel: expected 2 values, one per axis of input, got 1"),
        ("input: [3], kernel: 1, stride: [2, 2]", "stride: expected 1 values, one per axis of input, got 2"),
        ("input: [3], kernel: 1, batch: -1", "batch: expected an integer >= 0, got -1"),
        ("input: [3], kernel: 1, in_channels: 0", "in_channels: expected an integer >= 1, got 0"),
        ("input: [3], kernel: 1, bias: 1", "bias: expected true or false, got 1"),
        ("input: [3], kernel: 1, bias: 'yes'", 'bias: expected true or false, got "yes"'),
        ("input: [3], kernel: 1, notes: 3", "notes: expected text, got 3"),
        ("input: [3], kernel: 1, dtype: float8",
         'dtype: expected one of float16, bfloat16, float32, float64, got "float8"'),
        ("input: [3], kernel: 1, data: published",
         "data: expected one or a list of exact, rounding, edge-nan, edge-inf, edge-zero, edge-subnormal, edge-huge, "
         'edge, adjoint, linearity, gradient, got "published"'),
        ("input: [3], kernel: 1, data: []",
         "data: expected one or a list of exact, rounding, edge-nan, edge-inf, edge-zero, edge-subnormal, edge-huge, "
         "edge, adjoint, linearity, gradient, got []"),
        ("input: [3], kernel: 1, tags: [1]", "tags: expected one or a list of words, got [1]"),
        ("input: [3], kernel: 1, padding: full",
         "padding: expected an integer, one integer or [begin, end] pair per spatial axis, same or valid, "
         'got "full"'),
        ("input: [3], kernel: 1, padding: [[1, 2, 3]]",
         "padding: expected an integer, one integer or [begin, end] pair per spatial axis, same or valid, "
         "got [[1, 2, 3]]"),
        ("input: [3], kernel: 1, padding: {a: 1}",
         "padding: expected an integer, one integer or [begin, end] pair per spatial axis, same or valid, "
         'got {"a": 1}'),
        ("input: [3], kernel: 1, padding: [1, 1]", "padding: expected 1 values, one per axis of input, got 2"),
        ("input: [3], kernel: 2, padding: 2", "input: impossible shape: the output would be [0]"),
        ("input: [3], kernel: 2, output: [5]", "output: expected [4] by convolution arithmetic, got [5]"),
        ("input: [3], kernel: 2, output: [4, 4]", "output: expected [4] by convolution arithmetic, got [4, 4]"),
        ("input: [3], kernel: 1, groups: 2, out_channels: 2", "in_channels: expected a multiple of groups=2, got 1"),
        ("input: [3], kernel: 1, groups: 2, in_channels: 2", "out_channels: expected a multiple of groups=2, got 1"),
        ("input: [3], kernel: 2, stride: 2, output_padding: 2",
         "output_padding: expected less than max(stride, dilation) = 2, got 2"),
        ("input: [3], kernel: 2, output_size: 9", "output_size: expected 4 to 4 on axis 0, got 9"),
        ("input: [2, 3], kernel: 3, stride: [1, 3], output_size: [4, 8]",
         "output_size: expected 9 to 11 on axis 1, got 8"),
        ("input: [3], kernel: 2, output_size: 4, output_padding: 0",
         "output_padding: expected no other spelling of the size beside output_size"),
        ("input: [3], kernel: 2, output_size: 4, auto_pad: VALID",
         "auto_pad: expected no other spelling of the size beside output_size"),
        ("input: [3], kernel: 2, output_size: 4, output_shape: 4",
         "output_shape: expected no other spelling of the size beside output_size"),
        ("input: [3], kernel: 2, output_size: 4, padding: same", "padding: expected numbers beside output_size"),
        ("input: [3], kernel: 2, padding: 1, auto_pad: SAME_UPPER",
         "padding: expected no padding beside auto_pad: SAME_UPPER"),
        ("input: [3], kernel: 2, padding: 1, output_shape: 4", "padding: expected no padding beside output_shape"),
        ("input: [3], kernel: 2, padding: 1, output_shape: 4, auto_pad: NOTSET",
         "padding: expected no padding beside output_shape"),
        ("input: [3], kernel: 2, auto_pad: SAME",
         'auto_pad: expected one of NOTSET, SAME_UPPER, SAME_LOWER, VALID, got "SAME"'),
        ("input: [3], kernel: 3, relationship: 9, padding: 1, stride: 2",
         "relationship: axis 0: relationship 9 requires s = 1, got i=3 k=3 s=2 p=1 d=1 a=0"),
        ("input: [3], kernel: 3, relationship: 3, padding: 1",
         "relationship: axis 0: relationship 3 speaks of direct convolutions, this case is not one"),
        ("input: [3], kernel: 3, stride: 2, padding: 1, output_padding: 1, relationship: 13",
         "relationship: axis 0: relationship 13 requires a = 0, got i=3 k=3 s=2 p=1 d=1 a=1"),
        ("input: [3], kernel: 3, relationship: 16",
         "relationship: axis 0: expected a relationship of the guide, 1 to 15, got 16"),
        ("input: [3, 3], kernel: 3, stride: [1, 2], relationship: 8",
         "relationship: axis 1: relationship 8 requires s = 1, got i=3 k=3 s=2 p=0 d=1 a=0"),
        ("input: [60000, 60000], kernel: 1",
         "input: too large: 28,800,000,004 bytes of tensors, expected at most 4,294,967,296"),
        ("input: [3], kernel: 1, matrix: 3", "matrix: expected a mapping, got 3"),
        ("input: [3], kernel: 1, matrix: {kernel: 3}", "matrix.kernel: expected a list of values, got 3"),
        ("input: [3], kernel: 1, matrix: {kernel: []}", "matrix.kernel: expected a list of values, got []"),
        ("input: [3], kernel: 1, exclude: 3", "exclude: expected a list of mappings, got 3"),
        ("input: [3], kernel: 1, exclude: [3]", "exclude[0]: expected a mapping, got 3"),
        ("input: [3], matrix: {kernel: [1]}, exclude: [{stride: 1}]",
         "exclude[0].stride: expected a key of matrix (kernel)"),
        ("input: [3], matrix: {kernel: [1]}, exclude: [{kernel: 2}]",
         "exclude[0].kernel: expected a value of matrix.kernel, got 2"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_case_is_told_in_a_line(refuse: Refuse, keys: str, said: str) -> None:
    assert refuse(one(keys)) == f"s.yaml:3: cases.c.{said}"


@pytest.mark.parametrize(
    ("op", "keys", "said"),
    [
        ("conv", "input: [3], kernel: 4", "input: impossible shape: the output would be [0]"),
        ("conv", "input: [3], kernel: 2, output_padding: 1", "output_padding: unknown key; did you mean padding?"),
        ("conv", "input: [3], kernel: 2, padding: 1, auto_pad: VALID",
         "padding: expected no padding beside auto_pad: VALID"),
        ("conv", "input: [5], kernel: 3, padding: [[0, 1]], relationship: 2",
         "relationship: the guide's relationships need equal padding at both ends"),
        ("conv_input_gradient", "input: [3], kernel: 4",
         "input: impossible shape: the convolution has no output on axis 0"),
        ("conv_input_gradient", "input: [3], kernel: 2, bias: true", "bias: expected false, got true"),
        ("convolution", "input: [3], kernel: 2",
         f'op: expected op, one of {NAMES}, got "convolution"'),
        ("[conv]", "input: [3], kernel: 2",
         f'op: expected op, one of {NAMES}, got ["conv"]'),
    ],
)  # fmt: skip
def test_a_mistake_in_other_ops_is_told_in_a_line(refuse: Refuse, op: str, keys: str, said: str) -> None:
    assert refuse(one(keys, op)) == f"s.yaml:3: cases.c.{said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "s.yaml:1: expected a suite: a mapping with suite and cases (and source, notes, defaults)"),
        ("# nothing\n", "s.yaml:1: expected a suite: a mapping with suite and cases (and source, notes, defaults)"),
        ("- 1\n", "s.yaml:1: expected a suite: a mapping with suite and cases (and source, notes, defaults)"),
        ("suite: s\n", "s.yaml:1: expected a suite: a mapping with suite and cases (and source, notes, defaults)"),
        ("suite: s\ncases: []\n", "s.yaml:2: cases: expected a mapping, got []"),
        ("suite: s\ncases: {}\ncase: {}\n", "s.yaml:3: case: unknown key; did you mean cases?"),
        ("suite: a/b\ncases: {}\n", 's.yaml:1: suite: expected a name of letters, digits and . _ + -, got "a/b"'),
        ("suite: 3\ncases: {}\n", "s.yaml:1: suite: expected a name of letters, digits and . _ + -, got 3"),
        ("suite: s\nnotes: [1]\ncases: {}\n", "s.yaml:2: notes: expected text, got [1]"),
        ("suite: s\nsource: 7\ncases: {}\n", "s.yaml:2: source: expected text, got 7"),
        ("suite: s\ndefaults: 3\ncases: {}\n", "s.yaml:2: defaults: expected a mapping, got 3"),
        ("suite: s\ncases:\n  c: 3\n", "s.yaml:3: cases.c: expected a mapping, got 3\n"
         f"s.yaml:3: cases.c: expected op, one of {NAMES}, got null"),
        ("suite: s\ncases:\n  'a b': {op: conv, input: [3], kernel: 1}\n",
         's.yaml:3: cases.a b: expected a name of letters, digits and . _ + -, got "a b"'),
        ("suite: s\nsuite: t\ncases: {}\n", "s.yaml:2: suite: this key stands twice"),
        ("suite: s\ncases:\n  c: {op: conv, kernel: 3,\n    kernel: 4}\n",
         "s.yaml:4: cases.c.kernel: this key stands twice"),
        ("suite: s\n<<: {a: 1}\ncases: {}\n", "s.yaml:2: merge keys are not supported; use the suite's defaults"),
        ("suite: s\ncases: {}\n3: 4\n", "s.yaml:3: expected a name as key, got 3; quote it"),
        ("suite: s\ncases:\n  no: {}\n", "s.yaml:3: cases: expected a name as key, got False; quote it"),
        ("suite: s\ncases: {}\n? [a]\n: 4\n", "s.yaml:3: expected a name as key, got ['a']; quote it"),
        ("suite: s\ncases:\n  c: {op: conv, input: [3], matrix: {kernel: [1, 1]}}\n",
         "s.yaml:3: cases.c: the id s/c[kernel=1] stands for two cases"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_told_in_a_line(refuse: Refuse, text: str, said: str) -> None:
    assert refuse(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "suite: [s\ncases: {}\n",
        "suite: s\n\tcases: {}\n",
        "suite: s\ncases: *c\n",
        "suite: s\n---\ncases: {}\n",
        "suite: s\ncases: @c\n",
    ],
)
def test_what_is_not_yaml_is_told_in_the_words_of_its_parser(refuse: Refuse, text: str) -> None:
    assert re.fullmatch(r"s\.yaml:2: not YAML: [^\n]+", refuse(text))


@pytest.mark.parametrize(
    ("op", "keys"),
    [
        ("conv", "kernel: 3, padding: 1, relationship: 3"),
        ("conv", "kernel: 3, stride: 2, dilation: 2, padding: 1, relationship: 15"),
        ("conv_transpose", "kernel: 3, stride: 2, padding: 1, relationship: 13"),
        ("conv_transpose", "kernel: 3, stride: 2, padding: 1, output_padding: 1, relationship: 14"),
        ("conv_transpose", "kernel: 3, stride: 2, padding: [[1, 0]], relationship: 14"),
        ("conv_input_gradient", "kernel: 3, stride: 3, padding: 1, relationship: 14"),
    ],
)
def test_a_relationship_that_holds_is_accepted(load: Load, op: str, keys: str) -> None:
    (case,) = load(one(f"input: [6], {keys}", op))
    assert case.relationship == int(keys.rpartition(" ")[2])


def test_all_mistakes_of_a_file_are_told_at_once_in_their_order(refuse: Refuse) -> None:
    said = refuse(
        """\
        suite: s
        defaults: {op: conv, dtyp: float32}
        cases:
          a:
            input: [3]
            kernel: 1
            stride: 0
            batch: -1
          b: {input: [3], kernel: 4}
          c: {kernel: 1, matrix: {input: [[3], [0]]}}
        """
    )
    assert said.split("\n") == [
        "s.yaml:2: cases.a.dtyp: unknown key; did you mean dtype?",
        "s.yaml:2: cases.b.dtyp: unknown key; did you mean dtype?",
        "s.yaml:2: cases.c.dtyp: unknown key; did you mean dtype?",
        "s.yaml:7: cases.a.stride: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got 0",
        "s.yaml:8: cases.a.batch: expected an integer >= 0, got -1",
        "s.yaml:10: cases.c.input: expected a list of 1 to 3 integers >= 1, one per spatial axis, got [0]",
    ]


def test_a_mistake_in_a_matrix_is_told_with_the_line_of_its_value(refuse: Refuse) -> None:
    said = refuse(
        """\
        suite: s
        cases:
          c:
            op: conv
            input: [3]
            matrix:
              kernel:
                - 1
                - 2
                - 5
        """
    )
    assert said == "s.yaml:5: cases.c.input: impossible shape: the output would be [-1]"
    lines = ["suite: s", "cases:", " c:", "  op: conv", "  input: [3]", "  matrix:", "   batch:", "    - 1", "    - no"]
    said = refuse("\n".join([*lines, "  kernel: 1"]))
    assert said == "s.yaml:9: cases.c.batch: expected an integer >= 0, got false"


def test_a_huge_matrix_is_refused_before_it_is_spread_out(refuse: Refuse) -> None:
    thousand = str(list(range(1, 1001)))
    said = refuse(one(f"input: [3], matrix: {{kernel: {thousand}, stride: {thousand}, batch: {thousand}}}"))
    assert said == "s.yaml:3: cases.c.matrix: expected at most 200000 combinations, got 1000000000"


def test_a_value_too_long_for_a_line_is_cut(refuse: Refuse) -> None:
    said = refuse(one(f"input: [3], kernel: {'x' * 500}"))
    assert said.endswith('got "' + "x" * 56 + "...")


# ---- Files from strangers ----


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("suite: s\n# caf\u00e9\ncases: {}\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"^latin\.yaml:2: not UTF-8 text$"):
        load_suite(path, "latin.yaml")


def test_a_folder_and_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^here:1: cannot be read: Is a directory$"):
        load_suite(tmp_path, "here")
    with pytest.raises(SpecError, match=r"^gone:1: cannot be read: No such file or directory$"):
        load_suite(tmp_path / "gone", "gone")


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MAX_BYTES", 30)
    path = tmp_path / "s.yaml"
    path.write_text("suite: s\ncases: {}\n" + "#" * 12, encoding="utf-8")
    with pytest.raises(SpecError, match=r"^s\.yaml:1: expected at most 30 bytes$"):
        load_suite(path, "s.yaml")


def test_a_file_is_called_by_its_path_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_suite(path)
    assert str(refused.value).startswith(f"{path}:1: expected a suite")


LAUGHS = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x, x]"] + [
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]" for n in range(9)
])  # fmt: skip


def test_a_billion_laughs_are_not_laughed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MAX_NODES", 50_000)
    with pytest.raises(SpecError, match=r"too large or nested too deeply \(are aliases repeated\?\)$"):
        Document("s.yaml", LAUGHS)


def test_the_limit_of_nodes_leaves_room_for_every_shipped_suite() -> None:
    for path in shipped_suites().values():
        text = path.read_text(encoding="utf-8")
        assert text.count(",") + text.count("\n") < marks.MAX_NODES / 20


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: *a}", "&a {? *a : 1}", "&a [[*a, *a], *a]"])
def test_an_alias_to_itself_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"too large or nested too deeply \(are aliases repeated\?\)$"):
        Document("s.yaml", text)


def test_an_alias_used_twice_is_just_a_value(load: Load) -> None:
    cases = load("suite: s\ncases:\n  a: &a {op: conv, input: [3], kernel: 2}\n  b: *a\n")
    assert [c.id for c in cases] == ["s/a", "s/b"]


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "[" * 5000 + "]" * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Document("s.yaml", text)


def test_nesting_deeper_than_the_stack_is_refused() -> None:
    """1 MiB of brackets, a sixteenth of what a file may have."""
    script = """
        from conformance.errors import SpecError
        from conformance.spec.marks import Document
        try:
            Document("s.yaml", "[" * 2**20)
        except SpecError:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{}]",
        "!!python/object/new:os.mkdir [{}]",
        "!!python/object/apply:os.mkdir\n  args: [{}]",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!!python/object:pathlib.Path {{}}",
        "!!python/tuple [1, 2]",
        "!own [1]",
    ],
)
def test_a_tag_never_makes_an_object(tag: str, tmp_path: Path) -> None:
    victim = tmp_path / "made"
    value = Document("s.yaml", f"key: {tag.format(victim)}\n").value
    assert not victim.exists()

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        return all(map(plain, value)) if isinstance(value, list) else isinstance(value, str | int | float | None)

    assert plain(value)


def test_a_tag_in_a_case_is_refused_as_the_value_that_it_marks(refuse: Refuse) -> None:
    said = refuse(one("input: [3], kernel: !!python/object/apply:os.getcwd []"))
    assert said == (
        "s.yaml:3: cases.c.kernel: expected an integer >= 1, or a list of integers >= 1, one per spatial axis, got []"
    )


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("!!timestamp 2020-01-01", "2020-01-01"),
        ("!!binary aGVsbG8=", "aGVsbG8="),
    ],
)
def test_a_date_is_the_text_that_was_written(load: Load, written: str, text: str) -> None:
    (case,) = load(f"suite: s\ncases:\n  c: {{op: conv, input: [3], kernel: 1, notes: {written}}}\n")
    assert case.notes == text


@pytest.mark.parametrize("value", ["9" * 5000, "0b_", "!!float x", "!!int 1:x"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"^s\.yaml:1: a: not a value: "):
        Document("s.yaml", f"a: {value}\n")


@pytest.mark.parametrize("value", ["!!bool maybe", '!!int ""', '!!float ""', "!!int +"])
def test_a_tagged_value_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"^s\.yaml:1: a: not a value: "):
        Document("s.yaml", f"a: {value}\n")


# ---- Numbers that a case brings along ----

PAIR = "tensors: {input: [[[%s, 2]]], weight: [[[3]]]}"
CASE = "input: [2], kernel: 1"


def brought(case: Case) -> dict[str, list[Any]]:
    assert case.vectors is not None
    return {name: tensor.tolist() for name, tensor in (case.vectors.tensors | case.vectors.expected).items()}  # type: ignore[operator]


def test_numbers_in_the_yaml_are_what_a_case_is_fed(load: Load) -> None:
    (case,) = load(one(f"{CASE}, {PAIR % 1}, expected: {{output: [[[3, 6]]]}}, decimals: 2, data: edge"))
    assert brought(case) == {"input": [[[1.0, 2.0]]], "weight": [[[3.0]]], "output": [[[3.0, 6.0]]]}
    assert case.data == ("published",)
    assert case.vectors is not None
    assert case.vectors.decimals == 2
    assert {t.dtype for t in case.vectors.tensors.values()} == {np.dtype(np.float32)}
    assert case.vectors.expected["output"].dtype == np.float64


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1", 1.0),
        ("-1.5", -1.5),
        ("0x1.8p-3", 0.1875),
        ("'-0x1p4'", -16.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("inf", math.inf),
        ("'-inf'", -math.inf),
        ("0x10", 16.0),
        ("1.0e+3", 1000.0),
    ],
)
def test_a_number_may_be_written_in_several_ways(load: Load, written: str, number: float) -> None:
    assert brought(load(one(f"{CASE}, {PAIR % written}"))[0])["input"] == [[[number, 2.0]]]


@pytest.mark.parametrize("written", [".nan", "nan", "'NaN'"])
def test_not_a_number_is_a_number_here(load: Load, written: str) -> None:
    assert math.isnan(brought(load(one(f"{CASE}, {PAIR % written}"))[0])["input"][0][0][0])


@pytest.mark.parametrize(("written", "number"), [("1e5", 1e5), ("'10'", 10.0), ("'1.5'", 1.5)])
def test_text_without_0x_is_not_taken_for_hexadecimal(load: Load, written: str, number: float) -> None:
    """To YAML 1.1 the plain 1e5 is text; read as hexadecimal it is 485."""
    try:
        read = brought(load(one(f"{CASE}, {PAIR % written}"))[0])["input"][0][0][0]
    except SpecError:
        return
    assert read == number


@pytest.mark.parametrize(("dtype", "written"), [("float32", "1.0e+39"), ("float16", "70000")])
def test_a_number_beyond_the_type_of_the_case_is_refused(refuse: Refuse, dtype: str, written: str) -> None:
    said = refuse(one(f"{CASE}, dtype: {dtype}, {PAIR % written}"))
    assert said.startswith("s.yaml:3: cases.c.tensors.input: ")


def test_numbers_are_rounded_once_to_the_type_of_the_case(load: Load) -> None:
    (case,) = load(one(f"{CASE}, dtype: bfloat16, {PAIR % '0x1.0100000001p0'}"))
    assert case.vectors is not None
    assert float(case.vectors.tensors["input"][0, 0, 0]) == 1.0078125


LISTS = "expected nested lists of numbers, all of the same length on each axis"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("tensors: {input: [[[1, 2]]]}", "tensors: expected also weight, 1 numbers in shape [1, 1, 1]"),
        ("tensors: {}",
         "tensors: expected also input, weight, 2 numbers in shape [1, 1, 2], 1 numbers in shape [1, 1, 1]"),
        ("tensors: {input: [1, 2], weight: [[[3]]]}", "tensors.input: expected shape [1, 1, 2], got [2]"),
        ("tensors: {input: 1, weight: [[[3]]]}", "tensors.input: expected shape [1, 1, 2], got []"),
        ("tensors: {input: [[[1, 2]]], weight: [[[3]]], bias: [1]}",
         "tensors.bias: unknown tensor; expected input, weight"),
        ("tensors: {input: [[[1], [1, 2]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: [[[one, 2]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: [[[true, 2]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: [[[null, 2]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: {a: 1}, weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: [[[0x1p9999, 2]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        ("tensors: {input: [[[[[[[[[[1]]]]]]]]]], weight: [[[3]]]}", f"tensors.input: {LISTS}"),
        (PAIR % 1 + ", expected: {output: [[[1]]]}", "expected.output: expected shape [1, 1, 2], got [1, 1, 1]"),
        (PAIR % 1 + ", expected: {y: [[[1, 2]]]}", "expected.y: unknown tensor; expected output"),
        ("expected: {output: [[[1, 2]]]}", "expected: expected tensors beside it"),
        (PAIR % 1 + ", vectors: v.npz", "vectors: expected either vectors or tensors and expected, got both"),
        ("vectors: gone.npz",
         "vectors: gone.npz cannot be read: [Errno 2] No such file or directory: '{folder}/gone.npz'"),
        ("vectors: .", "vectors: . cannot be read: [Errno 21] Is a directory: '{folder}'"),
        ("vectors: 3", "vectors: expected text, got 3"),
        (PAIR % 1 + ", decimals: -1", "decimals: expected an integer >= 0, got -1"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_told(refuse: Refuse, tmp_path: Path, keys: str, said: str) -> None:
    assert refuse(one(f"{CASE}, {keys}")) == f"s.yaml:3: cases.c.{said.replace('{folder}', str(tmp_path))}"


def npy(
    descr: str = "'<f8'", shape: str = "(1, 1, 2)", data: bytes = b"\0" * 16, version: tuple[int, int] = (1, 0)
) -> bytes:
    """An array as ``numpy.save`` writes it, with whatever its header claims."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(header)) + header + data


def write_npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_numbers_in_an_npz_are_what_a_case_is_fed(load: Load, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    np.savez(
        tmp_path / "below" / "v.npz",
        input=np.array([[[1, 2]]], np.int32),
        weight=np.array([[[3]]], ">f8"),
        output=np.array([[[3, 6]]]),
    )
    (case,) = load(one(f"{CASE}, vectors: below/v.npz"))
    assert brought(case) == {"input": [[[1.0, 2.0]]], "weight": [[[3.0]]], "output": [[[3.0, 6.0]]]}
    assert case.data == ("published",)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"input": np.ones((1, 1, 3)), "weight": np.ones((1, 1, 1))},
            ".input: expected shape [1, 1, 2], got [1, 1, 3]",
        ),
        ({"input": np.ones((1, 1, 2))}, ": expected also weight, 1 numbers in shape [1, 1, 1]"),
        ({"input": np.ones((1, 1, 2)), "w": np.ones(1)}, ".w: unknown tensor; expected input, weight"),
        ({"input": np.ones((1, 1, 2), complex)}, ": expected numbers, got complex128"),
        ({"input": np.array(["a"])}, ": expected numbers, got <U1"),
        ({"input": np.array(["2020-01-01"], "M8[D]")}, ": expected numbers, got datetime64[D]"),
    ],
)
def test_an_npz_that_does_not_fit_is_told(refuse: Refuse, tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    assert refuse(one(f"{CASE}, vectors: v.npz")) == f"s.yaml:3: cases.c.vectors{said}"


@pytest.mark.parametrize(
    "name", ["../v.npz", "below/../../v.npz", "{folder}/../v.npz", "/etc/hostname", "link.npz", "linked/v.npz"]
)
def test_an_npz_outside_the_folder_of_the_suite_is_not_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "suites"
    (folder / "below").mkdir(parents=True)
    np.savez(tmp_path / "v.npz", secret=np.ones(1))
    (folder / "link.npz").symlink_to(tmp_path / "v.npz")
    (folder / "linked").symlink_to(tmp_path)
    name = name.format(folder=folder)
    with pytest.raises(KeyedError) as refused:
        read_npz(folder, name)
    assert str(refused.value) == f"expected a file beside the suite or below it, got {name}"


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", here=np.ones(1))
    (tmp_path / "link.npz").symlink_to(tmp_path / "v.npz")
    assert list(read_npz(tmp_path, "link.npz")) == ["here"]


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.mkdir, (str(self.victim),)


def test_a_pickle_is_never_opened(refuse: Refuse, tmp_path: Path) -> None:
    victim = tmp_path / "made"
    np.savez(tmp_path / "v.npz", input=np.array([Trap(victim)], object))
    said = refuse(one(f"{CASE}, vectors: v.npz"))
    assert said == (
        "s.yaml:3: cases.c.vectors: v.npz cannot be read: Object arrays cannot be loaded when allow_pickle=False"
    )
    assert not victim.exists()
    with np.load(tmp_path / "v.npz", allow_pickle=True) as opened:
        opened["input"]
    assert victim.exists(), "the trap works"


def corrupted(content: bytes, at: bytes, offset: int, value: int) -> bytes:
    """The archive with a bit field changed in every header of a kind."""
    changed, start = bytearray(content), -1
    while (start := content.find(at, start + 1)) >= 0:
        changed[start + offset] |= value
    return bytes(changed)


def archive(compressed: bool = False, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return stream.getvalue()


def bad_stream() -> bytes:
    """A compressed member whose first block is of a type that does not exist."""
    content = bytearray(archive(compressed=True, a=npy(data=bytes(range(256)) * 8, shape="(256,)")))
    start = 30 + struct.unpack("<H", content[26:28])[0] + struct.unpack("<H", content[28:30])[0]
    content[start] |= 0b110
    return bytes(content)


WHOLE = archive(a=npy())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        npy(),
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-1],
        archive(a=npy()[:-1]),
        archive(a=npy(shape="(-1,)")),
        archive(a=npy(shape=f"({2**62},)")),
        archive(a=npy(shape=f"({'1,' * 70})")),
        archive(a=npy(descr="'|O'")),
        archive(a=npy(descr="'zzz'")),
        archive(a=npy(descr="('<f8', (1000000, 1000000))")),
        archive(a=npy(version=(9, 0))),
        archive(a=b"\x93NUMPY\x01\x00\xff\xff{'descr': "),
        archive(a=npy(shape="(" + "1," * 20_000 + ")")),
    ],
    ids=lambda content: f"{len(content)} bytes",  # the bytes themselves hold the time of day
)
def test_a_broken_npz_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(KeyedError, match=r"^v\.npz cannot be read: "):
        read_npz(tmp_path, "v.npz")


BROKEN = {
    "a shape of 800 TB": archive(a=npy(shape=f"({10**14},)")),
    "a shape of 30 digits": archive(a=npy(shape=f"({10**30},)")),
    "an encrypted member": corrupted(corrupted(WHOLE, b"PK\x01\x02", 8, 1), b"PK\x03\x04", 6, 1),
    "a header that never ends": archive(a=b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 15 + b"\n"),
    "a broken stream": bad_stream(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_npz_broken_in_other_ways_is_told_too(tmp_path: Path, what: str) -> None:
    (tmp_path / "v.npz").write_bytes(BROKEN[what])
    with pytest.raises(KeyedError, match=r"^v\.npz cannot be read: "):
        read_npz(tmp_path, "v.npz")


@pytest.mark.parametrize("name", ["a\0b", "loop.npz"])
def test_a_name_that_no_file_can_have_is_told(load: Load, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(SpecError, match=r"^s\.yaml:3: cases\.c\.vectors: "):
        load(one(f'{CASE}, vectors: "{name}"'.replace("\0", "\\0")))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.spec import vectors

    monkeypatch.setattr(vectors, "MAX_BYTES", 2**16)
    zeros = npy(shape="(131072,)", data=b"\0" * 2**20)
    (tmp_path / "v.npz").write_bytes(archive(compressed=True, a=zeros))
    assert (tmp_path / "v.npz").stat().st_size < 2**13
    with pytest.raises(KeyedError, match=r"expected at most 65536 bytes in v\.npz$"):
        read_npz(tmp_path, "v.npz")


def test_a_member_that_is_larger_than_it_claims_is_not_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(archive(compressed=True, a=npy(shape="(131072,)", data=b"\0" * 2**20)))
    directory = content.find(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 100)
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(KeyedError, match=r"^v\.npz cannot be read: "):
        read_npz(tmp_path, "v.npz")


# ---- Suites by name and by path ----


def test_suites_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("suite: mine\ncases: {c: {op: conv, input: [3], kernel: 1}}\n", encoding="utf-8")
    ids = [case.id for case in load_cases([str(path), "edge"])]
    assert ids[0] == "mine/c"
    assert ids[1].startswith("edge/")
    assert load_cases(["edge"])[0].location.startswith("cases/edge.yaml:")


def test_a_suite_named_twice_is_loaded_once(tmp_path: Path) -> None:
    assert len(load_cases(["edge", "edge"])) == len(load_cases(["edge"]))


def test_the_quick_profile_leaves_out_what_is_tagged_full(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "suite: s\ndefaults: {op: conv, input: [3], kernel: 1}\ncases: {a: , b: {tags: full}}\n", encoding="utf-8"
    )
    assert [c.id for c in load_cases([str(path)], "quick")] == ["s/a"]
    assert [c.id for c in load_cases([str(path)])] == ["s/a", "s/b"]


def test_an_unknown_suite_is_told_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as refused:
        load_cases(["nowhere"])
    assert str(refused.value) == f"nowhere: expected a suite ({', '.join(shipped_suites())}) or a YAML file"


def test_the_mistakes_of_several_files_are_told_together(tmp_path: Path) -> None:
    names = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in names:
        path.write_text("suite: s\n", encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_cases(map(str, names))
    assert [problem.file for problem in refused.value.problems] == list(map(str, names))


def test_one_id_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            "suite: s\ncases: {c: {op: conv, input: [3], kernel: 1}}\n", encoding="utf-8"
        )
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    with pytest.raises(BadInput) as refused:
        load_cases([str(a), str(b)])
    assert str(refused.value) == f"{b}:2: the case s/c is also in {a}:2"


# ---- The JSON schema ----

SCHEMA = jsonschema.Draft202012Validator(suite_schema())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(suite_schema())


@pytest.mark.parametrize("suite", shipped_suites())
def test_the_schema_accepts_every_shipped_suite(suite: str) -> None:
    SCHEMA.validate(yaml.load(shipped_suites()[suite].read_text(encoding="utf-8"), yaml.CSafeLoader))


@pytest.mark.parametrize(
    "keys",
    [
        "strides: 2",
        "kernel: 0",
        "kernel: [1, 2, 3, 4]",
        "kernel: three",
        "kernel: true",
        "input: 3",
        "input: []",
        "padding: [[1, 2, 3]]",
        "padding: full",
        "dtype: float8",
        "op: convolution",
        "data: []",
        "data: published",
        "auto_pad: SAME",
        "bias: 1",
        "batch: -1",
        "tags: [1]",
        "notes: 3",
        "matrix: 3",
        "matrix: {kernel: 3}",
        "matrix: {strides: [1]}",
        "exclude: {kernel: 3}",
        "decimals: -1",
        "vectors: 3",
        "output_padding: -1",
        "output_size: 0",
        "relationship: one",
        "tensors: 3",
    ],
)
def test_schema_and_loader_refuse_the_same_typos(refuse: Refuse, keys: str) -> None:
    text = f"suite: s\ncases:\n  c: {{{keys}}}\n"
    assert not SCHEMA.is_valid(yaml.safe_load(text))
    refuse(f"suite: s\ndefaults: {{{'' if 'op:' in keys else 'op: conv_transpose'}}}\ncases:\n  c: {{{keys}}}\n")


@pytest.mark.parametrize(
    "text",
    [
        "suite: s",
        "cases: {}",
        "suite: a/b\ncases: {}",
        "suite: s\ncases: {}\ncase: {}",
        "[]",
        "suite: s\ncases: {a b: {}}",
    ],
)
def test_the_schema_refuses_what_is_no_suite(text: str) -> None:
    assert not SCHEMA.is_valid(yaml.safe_load(text))


def test_the_schema_knows_every_key_of_every_op() -> None:
    known = suite_schema()["properties"]["cases"]["additionalProperties"]["properties"]
    keys = {key for model in OPS.values() for key in model.model_fields}
    assert set(known) == keys | {"matrix", "exclude"}


# ---- Anything at all ----

YAMLISH = st.text(
    st.sampled_from(" \n\t-:[]{}&*|>'\"%@`#,?<~.=+_0123456789abexnty\\/\u00e9\u2028\ufeff\0\x07"), max_size=60
)
TAGS = st.sampled_from(
    ("!!int ", "!!float ", "!!bool ", "!!null ", "!!str ", "!!seq ", "!!map ", "!!set ", "!!binary ", "! ")
)


def told(attempt: Callable[[], object]) -> str:
    """What a SpecError says; nothing if there is none."""
    try:
        attempt()
    except SpecError as error:
        return str(error)
    return ""


def understood_or_refused(text: str) -> None:
    assert re.match(r"(?s)$|s\.yaml:\d+: ", told(lambda: Document("s.yaml", text)))


@given(st.one_of(YAMLISH, st.text()))
@EXAMPLES
def test_any_text_is_understood_or_refused(text: str) -> None:
    understood_or_refused(text)


def test_any_tagged_text_is_understood_or_refused() -> None:
    @given(st.lists(st.one_of(YAMLISH, TAGS), max_size=6).map("".join))
    @EXAMPLES
    def holds(text: str) -> None:
        understood_or_refused(text)

    holds()


@given(st.binary(max_size=200))
@EXAMPLES
def test_any_bytes_are_understood_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_suite(path, "bytes.yaml")


KEYS = sorted({key for model in OPS.values() for key in model.model_fields} | {"matrix", "exclude", "strides"})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from(
        [2**31, 2**63, -(2**70), 0.5, math.nan, "same", "valid", "conv", "SAME_UPPER", "edge", "float16", "0x1p3", ""]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)),
    max_leaves=8,
)
PLAUSIBLE = st.fixed_dictionaries(
    {"op": st.sampled_from(sorted(OPS)), "input": st.lists(st.integers(1, 6), min_size=1, max_size=3)},
    optional={
        "kernel": st.one_of(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        "stride": st.integers(1, 3),
        "padding": st.one_of(st.integers(-1, 3), st.sampled_from(["same", "valid"])),
        "auto_pad": st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
        "output_padding": st.integers(0, 2),
        "output_shape": st.integers(1, 9),
        "output_size": st.integers(1, 9),
    },
)


@given(PLAUSIBLE, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_case_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, plausible: dict[str, Any], anything: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.yaml"
    path.write_text(yaml.safe_dump({"suite": "s", "cases": {"c": plausible | anything}}), encoding="utf-8")
    cases: list[Case] = []
    said = told(lambda: cases.extend(load_suite(path, "s.yaml")))
    assert not said or all(line.startswith("s.yaml:") for line in said.split("\n"))
    for case in cases:
        assert all(min((1, *shape)) >= 0 for shape in (case.tensor_shapes | case.result_shapes).values())
        for step in case.steps if isinstance(case, Chain) else (case,):
            if isinstance(step, Convolution | Pooling):
                assert min((1, *step.large, *step.small)) >= 1
                assert all(a.large == a.full - a.begin - a.end for a in step.axes)


def test_the_limits_are_what_the_documents_say() -> None:
    assert loading.MAX_CASE_BYTES == 4 * 2**30
    assert marks.MAX_BYTES == 16 * 2**20
    assert {format.dtype.itemsize for format in FORMATS.values()} == {2, 4, 8}


def test_what_a_file_says_cannot_steer_the_terminal(load: Load) -> None:
    with pytest.raises(SpecError) as caught:
        load('suite: s\ncases:\n  c: {op: conv, input: [3], kernel: 1, "\\e[2Jkey": 1}\n')
    assert "key: unknown key" in str(caught.value)
    assert "\x1b" not in str(caught.value)
