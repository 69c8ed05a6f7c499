"""Tests the library, the training and the TPU scripts. Benchmarks also use `helpers`."""
