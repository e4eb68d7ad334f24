"""The models that a manifest may name.

registry: names, sizes and building    ->    gpt: the one architecture so far
"""
