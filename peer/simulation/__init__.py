"""Whole swarms on virtual time, with the code that real peers run."""
