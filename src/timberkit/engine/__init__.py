"""Weights through the house: planning, working through tasks, verifying."""
