"""Language models: loading, finding their decoder blocks, recording and steering the residual stream, generating."""
