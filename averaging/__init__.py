"""Averaging: from one peer's update to the average of its group, the same bits on every member.

    layout → feedback  → codecs → partition  → assembly  → round             → reduce, robust → averager
    one      residual    bytes    who owns     who         commit, exchange,   many to one,     the one call
    vector   on top               which part   with whom   decide              bit for bit      a peer makes

Nothing here opens a socket, reads a clock, or knows what a model is.
"""
