"""Plans settings for training from a table and its scans, each with its reason."""
