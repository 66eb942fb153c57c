SELECT project, registry_id FROM owner
