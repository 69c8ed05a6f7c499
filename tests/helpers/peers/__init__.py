"""Runs original implementations with random weights, for test_peers.py and benchmarks/peers.py."""
