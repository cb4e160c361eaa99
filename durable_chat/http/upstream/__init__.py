"""The store on a remote Durable Streams server: the same log over HTTP, and the read proxy."""
