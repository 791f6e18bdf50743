"""Action detection: key frames and their boxes, where boxes come from at test time, training, pictures."""
