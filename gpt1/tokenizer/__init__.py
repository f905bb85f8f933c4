"""Text to ids and back, exactly as in the 2018 code (docs/explanation/tokenization.md)."""
