"""What the dual knows of slots: minorants of their times, and what a certificate proves of them."""
