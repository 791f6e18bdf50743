"""From video files to clips on the device: decoding, choice of frames, augmentation, data sets, loaders."""
