SELECT id, project FROM definitions ORDER BY id
