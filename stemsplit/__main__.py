"""`python -m stemsplit` is the `stemsplit` command."""

from stemsplit.cli.main import run

if __name__ == "__main__":
    run()
