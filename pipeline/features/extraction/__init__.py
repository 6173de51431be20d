"""Every representation of every image, computed once: shards x features -> store, on Dask."""
