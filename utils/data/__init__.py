"""The inside of the data path: label files and their cache, image headers and stores, mosaics, batches."""
