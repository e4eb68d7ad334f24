"""From the wishes of an organiser to the manifest of a run."""
