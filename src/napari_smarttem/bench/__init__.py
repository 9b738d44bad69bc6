"""The product's figures, measured: one module per bench, each printed as JSON by ``smarttem bench NAME --json``.

A bench is a module here with ``run(*, quick: bool, seed: int) -> dict`` that returns `report.report` of its figures.
``quick`` is a version that takes about a minute.
"""
