"""`python -m massact`, the same as the console script `massact`."""

from massact.cli.app import main

if __name__ == "__main__":
    main()
