"""Computing each representation of each image once, on Dask: shards x features -> store."""
