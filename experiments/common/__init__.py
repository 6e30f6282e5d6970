"""What the experiments share: intervals, provenance and the report."""
