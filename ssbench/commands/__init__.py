"""One module for each command (`splits` and `data`: with their subcommands): parse, call one function, print."""
