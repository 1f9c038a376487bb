"""Network layers and models."""
