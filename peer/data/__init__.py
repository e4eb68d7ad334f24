"""The training text: content-addressed, cut into shards, drawn as batches that anybody can draw again.

corpus              -> shards                 -> stream
files to one text,     who trains on which       batches, and the held-out
named by its root      part this round           windows nobody trains on
"""
