"""`python -m ssbench` is `ssbench`."""

from ssbench.cli import main

if __name__ == "__main__":
    main()
