"""Uploads: a user registers a video of their own, and a creator is paid for it, once for ever.

Invariants
- An id belongs to whoever came first, on whichever node, and stays theirs when the video is deleted.
- One award per (user, video), guarded by the user's head, whatever is deleted and uploaded again.
"""
