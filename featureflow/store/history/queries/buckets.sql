SELECT buckets FROM owner
