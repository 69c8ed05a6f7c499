"""Publishers' own networks with numbers in them, for test_peers.py and benchmarks/peers.py."""
