"""What peers need besides tensors: identity, messages, transport, DHT, membership, the run's manifest.

    identity -> wire      -> manifest -> ticket -> transport -> dht      -> membership -> simulation
    a key       signed       what all    one       TLS, keys    signed      who is        the same peers
                frames       agree on    string    and limits   records     here          in one process

Nothing in this package imports torch, so a process that only answers questions starts fast and stays small.
"""

__version__ = "0.1.0"
