INSERT INTO view_versions (view_id, state, changed_at_us, definition) VALUES (:view_id, :state, :changed_at_us, :definition)
