"""The statistics of answers: intervals, paired differences, ties."""
