"""Payment's pure rules: states of documents, totals, allocations, schedules, batches, receipts. No I/O."""
