"""What a vector's own properties tell about the coefficients worth trying, before any is evaluated."""
