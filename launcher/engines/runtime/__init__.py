"""The runtime that engines share: scheduler, paged cache, sampling, kernels."""
