"""Benchmarks: ratios against honest bases, never timed tests."""
