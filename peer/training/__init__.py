"""Local training: the model, its optimisers, the shared state and its checkpoints. Arithmetic without sockets."""
