"""Tests of the library, of training and of the TPU scripts. Benchmarks also use `helpers`."""
