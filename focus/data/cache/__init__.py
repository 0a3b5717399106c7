"""Keep on the disk, between runs, decoded images and features of frozen networks."""
