SELECT id, applied_at_us, project FROM definitions ORDER BY id DESC LIMIT 1
