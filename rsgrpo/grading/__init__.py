"""Grading: reads the final answer out of a completion and decides whether it is right."""
