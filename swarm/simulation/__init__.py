"""The same swarm in one process or a few, on virtual time: what `swarm rehearse` and the stories in `tests/` run on.

    clock      -> network              -> directory         faults              transcript
    time jumps    delay, bandwidth,       the DHT's port,   who crashes, when,  everything that happened,
    when all      loss; a Transport       late and lossy    who is cut off      in order, hashed
    tasks wait    for every peer

    border, shards: a network in several processes, which meet again and again, and exchange what crosses

Four laws make a rehearsal repeatable, on every machine:
1. time comes from ``loop.time()`` only;
2. chance comes from a seed (`swarm.seeds`, or the network's own generator);
3. whatever came out of a set is sorted before it is walked through;
4. arithmetic runs inline, behind `swarm.machine.Arithmetic`: no threads.
"""
