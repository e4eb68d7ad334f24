"""Who and where: identity, wire, transport, DHT, membership, run manifest, ticket, simulation.

    identity -> wire      -> manifest -> ticket -> transport -> dht      -> membership -> simulation
    a key       signed       what all    one       TLS, pin,    signed      who is        the same swarm
                frames       agree on    string    guard        records     here          in one process

Nothing here knows a tensor: a peer that only answers questions never imports torch.
"""

__version__ = "0.1.0"
