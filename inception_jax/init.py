"""Initial values of kernels, as the papers' TensorFlow code draws them."""

from __future__ import annotations

from flax import nnx

# TF-slim's `variance_scaling_initializer`: He et al. 2015 with a normal distribution cut at two
# standard deviations. The networks' sources that name another scheme are said at the layer.
conv_kernel = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# A depthwise filter is followed by no ReLU of its own, so nothing is halved.
depthwise_kernel = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
linear_kernel = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# Caffe's "xavier" filler: uniform, by the number of inputs alone.
xavier = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


def truncated_normal(stddev: float) -> nnx.Initializer:
    """A normal distribution cut at two standard deviations, `tf.truncated_normal_initializer`."""
    return nnx.initializers.truncated_normal(stddev)
