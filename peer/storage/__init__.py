"""Files on this computer: replaced as a whole, one folder per peer, and a ticket in a file."""
