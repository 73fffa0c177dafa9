//! Typed-in configuration and what it resolves to.
