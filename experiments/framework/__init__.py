"""What all experiments share: the declaration, trials and where they run, records, and the report."""
