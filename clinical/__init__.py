"""Staff and their roles, patients and identities, care teams, orders, documents and retrieval over them."""
