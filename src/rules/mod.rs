//! The rules, as arithmetic: time and randomness are arguments, so that they can be proved without waiting.
