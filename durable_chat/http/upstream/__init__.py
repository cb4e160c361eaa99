"""A Durable Streams server elsewhere: the same log over HTTP, and the read proxy."""
