"""Steering vectors: where activations are read, how a vector is made from them, and how it is cleaned."""
