"""`python -m jc2i`: the same as the command `jc2i`."""

from jc2i.cli import main

if __name__ == "__main__":
    main()
