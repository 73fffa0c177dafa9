//! What does this line ask for?
