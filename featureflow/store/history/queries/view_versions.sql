SELECT view_id, state, changed_at_us, definition FROM view_versions ORDER BY changed_at_us, view_id
