"""What is made of finished runs for others: tables, figures, a page, exported models."""
