"""What the clients of model providers share: connections, keys, failures and retries."""
