"""What an experiment is fed with: traits, prompt files, their checks and splits."""
