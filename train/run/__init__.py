"""A run: its options, its parts put together, its course."""
