"""What a cluster stands on besides PostgreSQL, as servers of our own on loopback: real Apache Kafka, and Valkey."""
