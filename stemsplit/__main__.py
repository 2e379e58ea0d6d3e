"""Run the `stemsplit` command as `python -m stemsplit`."""

from stemsplit.cli.main import run

if __name__ == "__main__":
    run()
