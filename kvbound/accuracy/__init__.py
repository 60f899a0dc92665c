"""Accuracy of quantized KV caches: a trained model is run with its cache stored in each format."""
