"""A run: its options, its assembly, its execution."""
