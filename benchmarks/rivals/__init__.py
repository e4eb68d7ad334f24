"""The systems of `benchmarks.allreduce`: each module is one peer in a process of its own.

numbers         what they average, and how far from the true mean an answer is
swarm_peer      ours: real transport, post, assembly and round
hivemind_peer   the stock `DecentralizedAverager` with its own p2pd
gloo_peer       ``torch.distributed.all_reduce``: no encryption, no hashes, no tolerance of faults
tls_peer        the floor: the same number of bytes through bare TLS 1.3 sockets in threads, and nothing else
"""
