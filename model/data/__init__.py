"""What training reads: datasets prepared, shards, and batches drawn from them."""
