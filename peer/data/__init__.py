"""The training text: content-addressed, cut into shards, drawn as batches that any peer can draw again.

corpus              -> shards                  -> stream
files to one text,     which member trains on     batches, and the held-out
named by its root      which part this round      windows for evaluation
"""
