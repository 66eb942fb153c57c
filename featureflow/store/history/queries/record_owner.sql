INSERT INTO owner (id, project, registry_id) VALUES (1, :project, :registry_id)
