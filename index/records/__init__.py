"""What is known of items: in SQLite, the truth from which all else can be made again."""
