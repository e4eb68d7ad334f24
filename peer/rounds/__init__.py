"""The rounds of one peer: with whom it averages, training meanwhile, checkpoints and evaluations."""
