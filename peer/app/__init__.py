"""A peer as a program on this computer.

node          start a peer: home, key, sockets, DHT, status page (`swarm new`, `swarm join`)
supervisor    start it again when it fails
malloc        how the process keeps and returns memory
top, demo     look at a peer; run several (`swarm top`, `swarm demo`)
chaos         kill and freeze a peer (`swarm chaos`)
"""
