"""Those who race. Each module is run as a process of its own: a job comes on stdin, a result leaves on stdout."""
