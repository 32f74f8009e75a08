"""The executor that runs cells on a cluster of Ray's; see docs/design/executors.md. Needs the extra `massact[ray]`."""
