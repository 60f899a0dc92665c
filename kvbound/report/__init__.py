"""Results for people: tables, sentences, numbers with their units."""
