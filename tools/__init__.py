"""What makes the generated documents and the embedded models; not part of the package."""
