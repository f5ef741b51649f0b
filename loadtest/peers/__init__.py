"""What the gateway is measured against, with the same client in the same run."""
