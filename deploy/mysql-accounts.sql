-- A server for trying and testing: the account makes databases of its own. In production give it one database.
GRANT ALL ON *.* TO 'featureflow'@'%' WITH GRANT OPTION;
