"""SQL and nothing else: each file is one of the tables' nouns. Beside them stand the ways to a database.

`db` opens connections, `embedded` runs a PostgreSQL of one's own, `migrate` brings a schema up to date and
`epoch` names a database's history. Nothing here knows a rule of the product or imports another room.
"""
