INSERT INTO definitions (applied_at_us, project) VALUES (:applied_at_us, :project)
