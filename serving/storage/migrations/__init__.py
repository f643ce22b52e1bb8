"""How the tables of an older server become those of this one."""

HEAD = "0004"
