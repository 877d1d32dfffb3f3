"""Deterministic simulation: the collector's own pipeline in virtual time, under a schedule of faults drawn from a seed.

``simulate(seed)`` is all of it. What is drawn is in ``plan``, who acts is in ``life`` and ``world``, how the stores
behave in ``table``, ``log`` and ``stream``, what must hold in the end in ``promises``.
"""
