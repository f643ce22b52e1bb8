"""Load tests from the command line; `python -m benchmarks COMMAND --help` shows each."""

from benchmarks.commands import main

if __name__ == "__main__":
    main()
