"""What the policies of a deconvnet mean, in words; and numbers as people write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conformance.explain.readings import concerned
from conformance.spec import Deconvnet
from conformance.verdict import PASSED


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: the question that the paper or the framework leaves open, and one answer per value."""

    name: str
    question: str
    answers: dict[str, str]


OVERLAP = Policy(
    "overlap",
    "Pooling windows overlap, so one pixel may be the maximum of several. What does unpooling put there?",
    {
        "sum": "The sum of what comes down. Unpooling is then the transpose of pooling through the same switches.",
        "assign": "One of the values, here the last. Where one activation is kept that is often a zero: it is gone.",
        "mean": "The mean of what comes down; zeros dilute it.",
    },
)
RECTIFY = Policy(
    "rectify",
    "What does a ReLU let through on the way down?",
    {
        "signal": "What is positive in the signal itself: the deconvnet of Zeiler and Fergus.",
        "mask": "What reached a unit that was active on the way up: the gradient (Simonyan et al., arXiv:1312.6034).",
        "both": "Only what is positive and reached an active unit: guided backpropagation (arXiv:1412.6806).",
        "none": "Everything: a linear way down, as in implementations that forget the rectifier.",
    },
)
LRN_DOWN = Policy(
    "lrn_down",
    "Contrast normalisation has no inverse. What happens to it on the way down?",
    {
        "identity": "It is passed through unchanged, which is what the paper's silence is mostly read as.",
        "gradient": "The signal goes through its gradient, as in Captum and iNNvestigate.",
        "forward": "The signal is normalised once more, as in one Caffe implementation.",
    },
)
BIAS_DOWN = Policy(
    "bias_down",
    "Are biases added on the way down?",
    {
        "none": "No: the filters are transposed and nothing is added.",
        "below": "The bias of the convolution below is added after each filter, everywhere in the image.",
    },
)
ISOLATE = Policy(
    "isolate",
    "What is kept at the top?",
    {
        "unit": "One activation: one position in one channel.",
        "channel": "One channel with all its positions.",
        "none": "Everything.",
    },
)
SEED = Policy(
    "seed",
    "What starts the way down?",
    {
        "activation": "The value of the activation itself.",
        "one": "A 1 in its place, as in Captum; for a single unit the picture is the same but for its scale.",
    },
)
TIMES = "\N{MULTIPLICATION SIGN}"
POLICIES = {policy.name: policy for policy in (OVERLAP, RECTIFY, LRN_DOWN, BIAS_DOWN, ISOLATE, SEED)}

SHORT = {
    ("overlap", "sum"): "added: the adjoint",
    ("overlap", "assign"): "one overwrites",
    ("overlap", "mean"): "averaged",
    ("rectify", "signal"): "deconvnet",
    ("rectify", "mask"): "gradient",
    ("rectify", "both"): "guided backprop",
    ("rectify", "none"): "no rectifier",
    ("lrn_down", "identity"): "passed through",
    ("lrn_down", "gradient"): "its gradient",
    ("lrn_down", "forward"): "normalised again",
    ("bias_down", "none"): "no bias",
    ("bias_down", "below"): "bias added",
}


def chosen(case: Deconvnet) -> dict[str, str]:
    """The value of each policy that matters in this case."""
    values = {"isolate": case.isolate.keep, "seed": case.isolate.seed}
    return values | {policy: getattr(case, policy) for policy in concerned(case)}


def number(value: float) -> str:
    """Three digits, and a power of ten where the number is very small or large."""
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else "∞"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:#.3g}".partition("e")
    mantissa = mantissa.removesuffix(".")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if exponent else ""
    return f"{mantissa} {TIMES} 10{raised}" if raised else mantissa


def verdict_in_words(verdict: str) -> str:
    """A verdict, short."""
    return {"exact": "bit for bit", "within_bound": "within bound", "ambiguous": "open in the spec"}.get(
        verdict, verdict.replace("_", " ")
    )


def kind_of(verdict: str) -> str:
    """How a verdict counts: ``passed``, ``failed``, ``open`` or ``refused``."""
    return {"ambiguous": "open", "unsupported": "refused"}.get(verdict, "passed" if verdict in PASSED else "failed")
