"""Learners: what active learning trains, and what a strategy sees of it."""
