"""Benchmarks: their problems, prompts and graders, and a cage for code that models write.

What is asked and how an answer is judged. Nothing here knows how a checkpoint was refined.
"""
