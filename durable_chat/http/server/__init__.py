"""An HTTP/1.1 server for the paths that every token takes."""
