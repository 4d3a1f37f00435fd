"""How far apart are two samples? Multi-kernel maximum mean discrepancy (MK-MMD)."""

from dan.mmd.estimators import linear_mmd2, mmd2, mmd2_per_kernel
from dan.mmd.kernels import MultiKernel, median_bandwidth
from dan.mmd.weights import optimal_weights

__all__ = ["MultiKernel", "linear_mmd2", "median_bandwidth", "mmd2", "mmd2_per_kernel", "optimal_weights"]
