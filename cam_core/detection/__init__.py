"""Explanations of a detector's objects, one by one."""
