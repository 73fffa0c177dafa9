//! What a person types, and one file a command.
