"""Door 4: what is due. Each chore runs by the clock on whichever node gets to it; all of them may be repeated."""
