"""What an organiser chooses, and the manifest of a run that follows from it."""
