DELETE FROM topics WHERE source = :source
