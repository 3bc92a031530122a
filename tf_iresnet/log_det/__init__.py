r"""Log-determinants of x + g(x): truncated, unbiased and exact estimators.

With J the Jacobian of g and Lip(g) < 1,

    ln|det(I + J)| = sum_{k >= 1} (-1)^{k+1} tr(J^k) / k,
    d ln|det(I + J)| = tr(sum_{k >= 0} (-1)^k J^k dJ).

Hutchinson's estimator replaces each trace by v^T J^k v. An estimator chooses the weights w_k
of the terms; value and (Neumann) gradient come from the same products, and gradients of the
gradient's sum are stopped, so that memory does not grow with the number of terms. A control
variate may take part of the noise of the first two terms out of the value.
"""

from tf_iresnet.log_det.estimator import LogDetEstimator
from tf_iresnet.log_det.exact import Exact
from tf_iresnet.log_det.roulette import RussianRoulette
from tf_iresnet.log_det.series import PowerSeries, SeriesEstimator

__all__ = ["Exact", "LogDetEstimator", "PowerSeries", "RussianRoulette", "SeriesEstimator"]
