"""Files on this computer: replaced as a whole, one folder per peer, and the ticket that lies in a file."""
