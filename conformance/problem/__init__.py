"""Case to problem: the tensors, what they must give, and what bounds an honest error.

``linear``      one sum of products per element: the convolutions, their bounds and edge data
``chain``       ops of several stages: pooling, deconvnets, adaptive deconvolution
``given``       the same with numbers that somebody brings along
``properties``  equations that hold between two runs of the same target, whatever the oracle says
"""

from conformance.problem.base import Part, Problem, Tensors
from conformance.problem.chain import ChainProblem
from conformance.problem.given import pose_given
from conformance.problem.linear import LinearProblem
from conformance.problem.posing import pose
from conformance.problem.properties import PropertyProblem

__all__ = ["ChainProblem", "LinearProblem", "Part", "Problem", "PropertyProblem", "Tensors", "pose", "pose_given"]
