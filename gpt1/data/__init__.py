"""Token shards, training sequences over them, and n-gram baselines."""
