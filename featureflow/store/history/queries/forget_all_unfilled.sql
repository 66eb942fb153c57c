DELETE FROM history_unfilled WHERE source = :source
