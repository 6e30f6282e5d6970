"""Methods for transformers, on named attention maps [batch, heads, tokens, tokens]."""
