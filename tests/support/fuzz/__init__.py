"""Fuzzing of every parser of a stranger's file: ``python -m fuzz``; the corpus is in tests/fuzz."""
