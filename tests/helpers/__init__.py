"""Provides functions and classes that several test modules and benchmarks use."""
