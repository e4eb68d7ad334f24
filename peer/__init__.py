"""One volunteer's computer: model, data, local SGD, outer step, state sync, dashboard, command line.

The only composition root.

Read `peer.loop` first: the story of a round, one line per stage.
"""
