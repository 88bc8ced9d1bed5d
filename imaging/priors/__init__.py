"""Earlier studies fetched from a PACS."""
