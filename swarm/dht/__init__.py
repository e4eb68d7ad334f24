"""How peers find each other: signed records under the run's keys, kept by the peers themselves."""
