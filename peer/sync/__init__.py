"""Where this peer stands in the run, where the others stand, and how it gets to where they are."""
