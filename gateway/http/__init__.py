"""Door 2: HTTP. Each file is a group of routes; `door.py` is what all of them pass through."""
