"""Bytes-to-loss and time-to-loss: what four peers reach on real text, for what they send and how long it takes them.

    methods ──► curves ──► sweep                 loss by step: the real arithmetic in one process, no clock, no socket
    lab ──► swarm_peer, gloo_peer, optimizer_peer ──► wire        seconds and bytes of a round: real sockets on a shaped link
    table                                        both together: what was reached when, and which promises hold

Loss and time are measured apart, because four peers that share two cores would otherwise measure the cores: a curve does not
depend on the machine's speed, and on the link a peer sleeps where it would train, so that the cores belong to the communication.

    seconds to a loss = steps · step seconds (a setting) + rounds · seconds of a round on the link (measured)
"""
