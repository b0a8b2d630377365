"""What is asked for: one environment by one or several requirements (PEP 508)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from conformance.errors import BadInput
from conformance.text import printable

EXAMPLE = 'keras==3.12.* or "onnxruntime==1.17.* numpy<2"'
LONGEST_NAME = 80
_OPERATOR = re.compile(r"\s*(===|~=|==|!=|<=|>=|<|>|@|,|;)\s*")
_WORDS = {"===": "-", "==": "-", "~=": "-about-", "!=": "-not-", "<=": "-to-", ">=": "-from-", "<": "-below-"}
_WORDS |= {">": "-above-", ",": "", "*": "x", " ": "+"}
_VARIANTS = ("-gpu", "-cpu")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One environment: ``text`` as it was given, and the requirements that it says."""

    text: str
    requirements: tuple[Requirement, ...]

    @property
    def packages(self) -> frozenset[str]:
        """The packages that are named, as distributions and without their variants: onnxruntime for onnxruntime-gpu."""
        names = {canonicalize_name(requirement.name) for requirement in self.requirements}
        return frozenset(names | {plain(name) for name in names})

    @property
    def slug(self) -> str:
        """The name of its files: ``onnxruntime-1.17.x+numpy-below-2``."""
        said = re.sub("|".join(map(re.escape, _WORDS)), lambda found: _WORDS[found[0]], self.text)
        if len(said) <= LONGEST_NAME and re.fullmatch(r"[A-Za-z0-9._+!-]+", said):
            return said
        short = re.sub(r"[^A-Za-z0-9._+-]+", "_", said)[:LONGEST_NAME]
        return f"{short}-{self._digest()[:8]}"

    def _digest(self) -> str:
        """Of the text and of all files that it names: a wheel may be built again, with the same name."""
        digest = hashlib.sha256(self.text.encode())
        for requirement in self.requirements:
            url = urlsplit(requirement.url or "")
            if url.scheme == "file" and (path := Path(unquote(url.path))).is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def unmet(self, versions: Mapping[str, str]) -> str:
        """What is asked for and is not what is there (versions of distributions, by name); empty if all is."""
        for requirement in self.requirements:
            found = versions.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(found, prereleases=True):
                return f"{requirement} was asked for, {found or 'nothing'} is there"
        return ""


def plain(name: str) -> str:
    """The package that a distribution is a variant of."""
    return next((name.removesuffix(variant) for variant in _VARIANTS if name.endswith(variant)), name)


def parse_wanted(texts: Iterable[str]) -> tuple[Wanted, ...]:
    """The environments that are asked for, in their order.  Raises BadInput."""
    wanted = tuple(_parse(text) for text in texts)
    if twice := [text for text, n in Counter(one.text for one in wanted).items() if n > 1]:
        raise BadInput(f"{twice[0]}: asked for twice")
    return wanted


def _parse(text: str) -> Wanted:
    parts = _OPERATOR.sub(r"\1", text).split()
    if not parts:
        raise BadInput(f"expected a requirement such as {EXAMPLE}, got nothing")
    try:
        requirements = tuple(map(Requirement, parts))
    except InvalidRequirement as error:
        reason = " ".join(printable(str(error)).split())
        raise BadInput(f"{printable(text)}: expected a requirement such as {EXAMPLE}: {reason}") from None
    return Wanted(" ".join(parts), requirements)
