"""The tests, by room; `tests.helpers` also serves benchmarks."""
