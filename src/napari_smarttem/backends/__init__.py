"""Instruments: what one is, where to find them, and what stands between them and a plan."""
