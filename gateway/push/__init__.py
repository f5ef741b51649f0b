"""The way out to phones that are not connected: who brings pushes (handlers/push/provider.py)."""
