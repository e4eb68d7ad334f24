"""What people and programs see of a peer: metrics, events, the snapshot, and the page that serves it."""
