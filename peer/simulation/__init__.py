"""Rehearsals: many peers in one process on virtual time, with the code that real peers run.

scenario    what to rehearse, as a value
peers       the simulated peers of one process: they arrive, crash and come back
run         the whole rehearsal, in one process or several; the command `swarm rehearse`
result      what a rehearsal reports
liars       peers that break the rules; its docstring is the map of their modules
verdict     what must not happen to honest peers
sweep       many seeds, each with its verdict
"""
