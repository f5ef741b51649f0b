"""What the tests share: databases here, sockets and servers beside them."""
