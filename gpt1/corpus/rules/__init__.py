"""The cleaner's rules, one a file; `registry` lists them in the order in which they are applied."""
