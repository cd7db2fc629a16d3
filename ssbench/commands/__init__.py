"""One module a command group: read the arguments, call one function, print."""
