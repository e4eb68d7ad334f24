"""The loss that four peers reach on real text, against the bytes that they send and the time that it takes.

    methods ──► curves ──► sweep
        loss by step: the real arithmetic in one process, no clock, no socket
    lab ──► swarm_peer, gloo_peer, optimizer_peer ──► wire
        seconds and bytes of a round: real sockets on a shaped link
    table
        both together: when each method is at a target, and which promises hold

Loss and time are measured apart, because four peers that share two cores would otherwise measure the cores: a
curve does not depend on the machine's speed, and on the link a peer sleeps where it would train, so that all
cores serve the communication.

    seconds to a loss = steps · step seconds (a setting) + rounds · seconds of a round on the link (measured)
"""
