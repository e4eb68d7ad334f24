"""The models that a manifest may name."""
