UPDATE owner SET buckets = :buckets WHERE id = 1
