"""Text to ids and back, exactly as SPEC section 2 says."""
