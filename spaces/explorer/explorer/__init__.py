"""The explorer: a page on which a video's dynamics, and what encoders make of them, can be looked at."""
