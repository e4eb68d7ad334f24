"""The peers of a run, their addresses and how far they are: contacts, progress records, and the roster."""
