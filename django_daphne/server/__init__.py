"""Everything that touches a socket, a signal or a process."""
