"""Document vectors as a thing of their own: encoded once into Parquet shards, read by every engine and export."""
