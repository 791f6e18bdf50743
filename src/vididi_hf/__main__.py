"""`python -m vididi_hf` is the `vididi` command."""

from vididi_hf.cli import main

if __name__ == "__main__":
    main()
