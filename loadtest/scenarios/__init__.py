"""What is tried on a server: each scenario takes a running one and returns its figures."""
