"""Python files by path, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def module_from(path: Path) -> ModuleType:
    """Run a file as a module.  It may import what lies beside it.  Raises ImportError, and whatever the file raises."""
    name = f"target_file_{path.stem}"  # a file named like what it imports must not stand in its way
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module
