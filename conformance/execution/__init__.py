"""Where targets run: never in the parent process.

``registry``  names and what each target needs      ``worker``    what a worker process does
``pool``      worker processes on this machine      ``channel``   messages between them and the parent
``transfer``  tensors on their way to a worker      ``exporting`` exporters, and runtimes of what they make
"""

from conformance.execution.exporting import LocalExecutor
from conformance.execution.names import all_targets, find_targets, known_targets
from conformance.execution.pool import Task
from conformance.execution.specs import TargetSpec
from conformance.execution.transfer import Parcel

__all__ = ["LocalExecutor", "Parcel", "TargetSpec", "Task", "all_targets", "find_targets", "known_targets"]
