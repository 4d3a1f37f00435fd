"""How far apart are two samples? Multi-kernel maximum mean discrepancy (MK-MMD)."""

from dan.mmd.adaptive import PairDistances, adaptive_mmd2, ladder_multiples
from dan.mmd.bandwidths import RunningBandwidth, mean_bandwidth, median_bandwidth
from dan.mmd.estimators import linear_mmd2, mmd2, mmd2_per_kernel
from dan.mmd.kernels import MultiKernel
from dan.mmd.random_features import random_feature_mmd2
from dan.mmd.two_sample import TwoSampleTest, a_distance, domain_probabilities, permutation_test
from dan.mmd.variance import mmd2_variance, mmd2_variance_per_kernel
from dan.mmd.weights import PowerStatistics, optimal_weights

__all__ = [
    "MultiKernel",
    "PairDistances",
    "PowerStatistics",
    "RunningBandwidth",
    "TwoSampleTest",
    "a_distance",
    "adaptive_mmd2",
    "domain_probabilities",
    "ladder_multiples",
    "linear_mmd2",
    "mean_bandwidth",
    "median_bandwidth",
    "mmd2",
    "mmd2_per_kernel",
    "mmd2_variance",
    "mmd2_variance_per_kernel",
    "optimal_weights",
    "permutation_test",
    "random_feature_mmd2",
]
