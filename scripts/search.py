"""Same as `vididi search`."""

from vididi_hf.cli import run_command

if __name__ == "__main__":
    run_command("search")
