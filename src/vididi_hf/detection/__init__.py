"""Action detection: key frames, their boxes, loading and drawing."""
