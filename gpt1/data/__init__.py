"""Token shards, training windows over them, and n-gram baselines."""
