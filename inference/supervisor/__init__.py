"""One resident process per expert, behind one local socket: what hangs or crashes is killed and started again."""
