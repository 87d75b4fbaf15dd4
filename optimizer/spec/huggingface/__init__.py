"""Hugging Face config.json -> ModelSpec: nothing in it that costs memory or time is dropped."""
