//! The user's commands. One verb, one file.
