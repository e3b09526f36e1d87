"""gftp: files between nodes, by URL `gftp://<node id>/<name>`."""
