"""Edit single modules exactly, and keep the recipe that replays the edits."""
