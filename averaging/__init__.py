"""Many updates to one: from one peer's update to the group's average, the same bits on every member.

    layout  -> feedback -> codecs -> partition -> groups, assembly -> round             -> reduce, robust -> averager
    tensors    what was    bytes     who owns     who averages        commit, exchange,    many to one       the one call
    to [P]     not applied           which part   with whom           receipts, decide     bit for bit       a peer makes

Nothing here opens a socket, reads a clock, or knows what a model is.
"""
