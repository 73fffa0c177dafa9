//! The work: `receive -> admit -> route -> infer -> record -> notify -> acknowledge`.
