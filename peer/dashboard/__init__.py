"""The dashboard: a viewer in a process of its own that reads a peer's status page and draws it.

    source() ──► Snapshot ──► view(snapshot, width, height) ──► Frame ──► terminal, one printed picture: app
                                panels   plots   theme          frame     SVG: picture

Everything up to the frame is pure: the same snapshot, look and size give the same characters, exactly as wide
and high as asked.
"""
