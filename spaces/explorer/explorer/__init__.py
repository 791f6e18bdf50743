"""The explorer: a web page that shows the dynamics of a video and how encoders see it."""
