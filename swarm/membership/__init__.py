"""Who is in the run, where, and how far: contact records, progress records, and the roster drawn from them."""
