//! What a person types, and one file a command.

pub mod input;
