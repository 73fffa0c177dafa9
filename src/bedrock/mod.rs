//! The model, called through the Bedrock SDK.
