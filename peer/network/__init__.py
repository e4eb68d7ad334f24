"""Who else is in the run, how to reach peers that are new to us, and how fast this uplink is."""
