"""The tests of the library, of training and of TPU scripts; benchmarks also use `helpers`."""
