"""What tf2onnx says of a conversion.

It logs what it could not convert, leaves it in the file as it was, and returns that file: TensorFlow operators under
their own names, or nodes that are converted by half.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

from conformance.targets.base import Unsupported

_NO_MAPPING = re.compile(r"Tensorflow op \[[^\]]*: (\w+)\] is not supported")
_LOGGER = "tf2onnx"


class ConversionFailed(Exception):
    """An operator that tf2onnx knows, and fails to convert."""


@contextlib.contextmanager
def conversion() -> Iterator[None]:
    """Listen to tf2onnx, which is quiet meanwhile.

    Raises Unsupported where it has no mapping for an operator, and ConversionFailed where its own fails.
    """
    logger, heard = logging.getLogger(_LOGGER), _Errors()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(heard)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    except Exception as error:
        _tell(heard.records, error)
        raise
    else:
        _tell(heard.records)
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)
        logger.propagate = propagates


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _tell(records: list[logging.LogRecord], error: Exception | None = None) -> None:
    messages = [record.getMessage() for record in records]
    if unmapped := sorted({found[1] for found in map(_NO_MAPPING.search, messages) if found}):
        raise Unsupported(f"tf2onnx has no mapping for {', '.join(unmapped)}") from error
    for record, message in zip(records, messages, strict=True):
        if message.startswith("Failed to convert node") and record.exc_info and record.exc_info[1]:
            cause = record.exc_info[1]
            raise ConversionFailed(f"tf2onnx, {message.splitlines()[0]}: {cause}") from cause
