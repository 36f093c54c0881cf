//! SQLite: open, schema and migrations, tasks, nodes, events. Rows are not domain types; conversion stands here.
