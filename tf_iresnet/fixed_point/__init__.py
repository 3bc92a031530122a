r"""Fixed-point inverses of x + g(x): solvers, their result and the gradient through them.

x = y - g(x) has one solution when Lip(g) < 1, and x_{i+1} = y - g(x_i) converges to it with
|x_n - x| <= Lip(g)^n / (1 - Lip(g)) |x_1 - x_0|. Solvers stop on the residual
RMS(x + g(x) - y) of each example, never on the size of a step.
"""

from tf_iresnet.fixed_point.anderson import Anderson
from tf_iresnet.fixed_point.implicit import invert
from tf_iresnet.fixed_point.picard import Picard
from tf_iresnet.fixed_point.result import ConvergenceError, FixedPointResult
from tf_iresnet.fixed_point.solver import Solver

__all__ = ["Anderson", "ConvergenceError", "FixedPointResult", "Picard", "Solver", "invert"]
