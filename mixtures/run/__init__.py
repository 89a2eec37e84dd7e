"""Records that a proxy run leaves in its directory."""
