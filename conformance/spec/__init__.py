"""What a case says, and how it is written in YAML.

``case``         the frozen case that the rest of the house works with
``fields``       the kinds of value that YAML may hold      ``convolution``  the models of the three convolution ops
``steps``        chains, and the small steps in them        ``pooling``      max_pool and max_unpool
``deconvnet``    deconvnet                                  ``deconv_block``  one block of it
``adaptive``     adaptive_deconv                            ``layers``       the layers of a network
``conv_block``   a filter with what runtimes fuse with it
``marks``        YAML with line numbers                      ``matrix``       grids of cases
``loader``       file to cases, all errors at once           ``vectors``      published numbers
``suites``       names and paths to files                    ``schema``       JSON Schema for editors
``digest``       what identifies a case                     ``onnx_words``   how a node of ONNX is written
``onnx_entry``   those words in YAML                        ``pool_axes``    the sizes of poolings
``pool_readings``  what a pooling may mean in ONNX
"""

from conformance.spec.adaptive import AdaptiveDeconv
from conformance.spec.case import (
    DATA_KINDS,
    DRAWN_KINDS,
    EDGE_KINDS,
    PROPERTIES,
    PUBLISHED,
    Case,
    Convolution,
    Vectors,
    is_index,
    is_parameter,
)
from conformance.spec.conv_block import ConvBlock
from conformance.spec.deconv_block import DeconvBlock
from conformance.spec.deconvnet import Deconvnet
from conformance.spec.digest import case_digest, configuration_digest
from conformance.spec.loader import load_suite, make_case
from conformance.spec.onnx_words import OnnxWords
from conformance.spec.pool_readings import PoolReading
from conformance.spec.pooling import MaxPool, MaxUnpool, Pooling
from conformance.spec.schema import suite_schema
from conformance.spec.steps import (
    BatchNorm,
    Chain,
    Isolate,
    NormedConvolution,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Stage,
    Step,
    Take,
)
from conformance.spec.suites import PROFILES, load_cases, shipped_suites

__all__ = [
    "DATA_KINDS",
    "DRAWN_KINDS",
    "EDGE_KINDS",
    "PROFILES",
    "PROPERTIES",
    "PUBLISHED",
    "AdaptiveDeconv",
    "BatchNorm",
    "Case",
    "Chain",
    "ConvBlock",
    "Convolution",
    "DeconvBlock",
    "Deconvnet",
    "Isolate",
    "MaxPool",
    "MaxUnpool",
    "NormedConvolution",
    "OnnxWords",
    "Pad",
    "PoolReading",
    "Pooling",
    "Rectify",
    "Reshape",
    "ResponseNorm",
    "ResponseNormGradient",
    "Stage",
    "Step",
    "Take",
    "Vectors",
    "case_digest",
    "configuration_digest",
    "is_index",
    "is_parameter",
    "load_cases",
    "load_suite",
    "make_case",
    "shipped_suites",
    "suite_schema",
]
