"""The small library that the SaaS's own app uses: permits (the epoch check) and the journal. No other dependency."""
