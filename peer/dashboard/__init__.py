"""The dashboard: a viewer in a process of its own that reads a peer's status page and draws it.

    source() ──► Snapshot ──► view(snapshot, width, height) ──► Frame ──► terminal or one printed picture (app), SVG (picture)
                                panels   plots   theme          frame

Everything up to the frame is pure: the same snapshot, look and size give the same characters, exactly as wide and high as asked.
"""
