"""The cleaner's rules in families; `registry` lists them in the order in which they are applied."""
