DELETE FROM positions WHERE view_id = :view_id
