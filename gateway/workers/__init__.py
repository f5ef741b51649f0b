"""More than one core: `applause serve --workers N`. A parent keeps processes running that share a port, each a node of
its own; what they tell each other goes over a Unix socket."""
