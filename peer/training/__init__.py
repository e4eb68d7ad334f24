"""Local training: the model, its optimisers, the shared state and its checkpoints. No sockets, no clocks.

learner     updates from local training, the next shared state from an average
trainer     the model, its local optimiser and its text
inner       the local steps, with adamw and muon
outer       the step on the average
state       what all honest peers share
checkpoint  what a peer keeps on disk
evaluate    bits per byte, and samples
compute     the thread for all of this
"""
