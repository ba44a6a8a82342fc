"""Benchmarks of speed and cost, compared with other programs. They are not part of the test suite."""
