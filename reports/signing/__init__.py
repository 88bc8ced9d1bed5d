"""PDF signatures: PAdES baseline B-B (ETSI EN 319 142-1) by pyHanko, keys and certificates, verification.

``certificates`` makes keys and X.509 certificates, ``pades`` signs, ``verify`` checks against one authority alone,
``keyring`` keeps the keys of this installation. Only ``keyring`` knows the database.
"""
