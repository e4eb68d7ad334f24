"""Measurements, one command each:

``python -m benchmarks.NAME``. They print a table and write JSON; nothing here is a test.
"""
