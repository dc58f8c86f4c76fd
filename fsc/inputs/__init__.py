"""Images and trained networks come in."""
