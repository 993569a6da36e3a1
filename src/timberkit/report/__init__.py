"""Results -> figures and pages. No torch, no engine: what is shown was computed before."""
