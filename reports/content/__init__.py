"""What a report says: its schema, the facts it is made from, how quantities are shown."""
