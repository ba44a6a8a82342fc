"""Measurements: how fast, at which cost, beside what else could do the job. Never part of the test suite."""
