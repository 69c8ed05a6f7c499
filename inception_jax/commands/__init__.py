"""The commands of `inception-jax` that are more than a few lines."""
