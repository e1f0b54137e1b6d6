"""Where studies are kept: one database, every write through StudyStore."""
