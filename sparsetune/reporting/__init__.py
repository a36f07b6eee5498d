"""From records to tables: reads what the stages wrote, computes no result of its own."""
