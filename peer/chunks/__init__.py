"""Content-addressed transfer: content in chunks, named by their hashes, served to and fetched from many peers."""
