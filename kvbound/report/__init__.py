"""Results in readable form: tables, sentences, numbers with their units."""
