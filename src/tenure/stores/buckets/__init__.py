"""What every store that is kept in a bucket needs: a client, listings that survive, deletes that are all done. No store
of its own."""
