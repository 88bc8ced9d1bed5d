"""Report content, narrative, PDF, signature, versions and sign-off."""
