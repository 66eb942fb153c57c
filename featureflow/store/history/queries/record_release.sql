INSERT INTO releases (model, number, made_at_us, document) VALUES (:model, :number, :made_at_us, :document)
