"""Benchmarks: `python -m ascendspeed.bench attention` times the operator, `... train` a step of a GPT around it."""
