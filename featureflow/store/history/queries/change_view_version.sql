UPDATE view_versions SET state = :state, changed_at_us = :changed_at_us, definition = :definition WHERE view_id = :view_id
