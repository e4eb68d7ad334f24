"""The same swarm on virtual time, in one or a few processes: for `swarm rehearse` and the story tests.

    clock        an event loop on virtual time, which jumps when all tasks wait
    network      delay, bandwidth, loss; gives every peer a `Transport`
    directory    in place of the DHT: reads are late, and records get lost
    faults       a plan: which peer crashes, freezes or is cut off, and when
    transcript   everything that happened, in order, hashed
    shards       several processes with one virtual time; `border` carries requests between them

Four laws make a rehearsal repeatable, on every machine:
1. time comes from ``loop.time()`` only;
2. random numbers come from a seed (`swarm.seeds`, or the network's own generator);
3. elements of a set are sorted before they are iterated over;
4. arithmetic runs inline, behind `swarm.machine.Arithmetic`: no threads.
"""
