"""Model versions: weights folders packaged, downloaded, registered, and their standing."""
